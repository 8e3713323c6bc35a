"""The backend's metrics at Triton's own /metrics: what steps did, at once or within a second, for each model alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from backends.onnx_decoder.contract.limits import NO_SLOT
from backends.onnx_decoder.contract.step import StepRow
from backends.onnx_decoder.metrics import COUNTERS, GAUGES, INTERVAL, LABELLED, PREFIX
from gateway.text.model import Model
from gateway.triton.client import TritonClient, step_request
from testing.triton import Triton
from tests.conftest import CHARACTERS, TINY

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
PROMPT = np.random.default_rng(5).integers(0, 50257, 60).astype(np.int32)
OTHER = np.random.default_rng(6).integers(0, 50257, 60).astype(np.int32)


class Watched:
    """A Triton with two models of two slots each, a client of it, and one of the models as it describes itself."""

    def __init__(self, triton: Triton, client: TritonClient, model: Model) -> None:
        self.triton, self.client, self.model = triton, client, model

    async def step(self, *rows: StepRow, release: tuple[int, ...] = ()) -> list[int]:
        """The cached lengths."""
        answer = await self.client.step(self.model, list(rows), list(release))
        return answer.cached_length.tolist()

    def told(self, model: str = TINY) -> Counter[str]:
        """Every metric of ours, without the prefix; a label's value, where there is one, behind a colon."""
        found: Counter[str] = Counter()
        for family in parse(self.triton.metrics()):
            for sample in family.samples:
                labels = dict(sample.labels)
                if sample.name.startswith(PREFIX) and labels.pop("model") == model:
                    assert labels.pop("version") == self.model.version or model != TINY
                    found[":".join([sample.name.removeprefix(PREFIX), *labels.values()])] = sample.value
        return found


@asynccontextmanager
async def watched_triton(repository: Path, run_dir: Path) -> AsyncIterator[Watched]:
    with Triton(repository, run_dir, [TINY, CHARACTERS], slots=2, metrics=True) as triton:
        async with TritonClient(triton.grpc_address) as client:
            yield Watched(triton, client, await client.describe(TINY))


@pytest.fixture(scope="module")
async def watched(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    async with watched_triton(model_repository, tmp_path_factory.mktemp("watched")) as watched:
        yield watched


def row(sequence_id: int, past: int, tokens: np.ndarray, limit: int = 4096) -> StepRow:
    return StepRow(sequence_id, past, tokens, limit)


async def test_every_metric_is_there_from_the_start_for_each_model(watched: Watched) -> None:
    names = {"device_info:cpu", *GAUGES, *(f"{name}_total" for name in COUNTERS)}
    names |= {f"{name}_total:{value}" for name, (_, _, values) in LABELLED.items() for value in values}
    assert watched.told().keys() == watched.told(CHARACTERS).keys() == names
    assert watched.told()["kv_slots"] == watched.told(CHARACTERS)["kv_slots"] == 2


async def test_steps_are_told_when_the_last_text_has_ended(watched: Watched) -> None:
    before, of_others = watched.told(), watched.told(CHARACTERS)
    assert await watched.step(row(1, 0, PROMPT), row(2, 0, OTHER)) == [60, 60]
    assert await watched.step(row(1, 60, PROMPT[:1])) == [61]
    await watched.step(release=(1, 2))
    told = watched.told() - before
    assert (told["steps_total"], told["step_rows_total"], told["step_tokens_total"]) == (2, 3, 121)
    assert 0 < told["run_seconds_total"] < told["step_seconds_total"] < 10
    assert watched.told()["kv_slots_used"] == 0
    assert watched.told(CHARACTERS) == of_others


async def test_what_is_found_in_the_cache_is_counted_in_tokens(watched: Watched) -> None:
    start = np.random.default_rng(9).integers(0, 50257, 50).astype(np.int32)
    before = watched.told()
    await watched.step(row(1, 0, start))
    await watched.step(release=(1,))
    await watched.step(row(2, 0, np.concatenate([start, OTHER[:10]])))
    await watched.step(release=(2,))
    told = watched.told() - before
    assert (told["prefix_cache_queries_total"], told["prefix_cache_hits_total"]) == (49 + 59, 50)


async def test_a_first_text_is_told_at_once_and_others_within_a_second_of_steps(watched: Watched) -> None:
    await watched.step(row(1, 0, PROMPT))
    assert watched.told()["kv_slots_used"] == 1
    await watched.step(row(2, 0, OTHER))
    await asyncio.sleep(INTERVAL)
    await watched.step(row(1, 60, PROMPT[:1]))
    assert watched.told()["kv_slots_used"] == 2
    await watched.step(release=(1, 2))
    assert watched.told()["kv_slots_used"] == 0


async def test_what_is_refused_is_told_by_reason(watched: Watched) -> None:
    before = watched.told()
    assert await watched.step(row(1, 0, PROMPT), row(2, 0, OTHER), row(3, 0, PROMPT)) == [60, 60, NO_SLOT]
    await watched.step(row(9, 10, PROMPT))
    wrong = [step_request(watched.model, [row(8, 0, np.array([-1], np.int32))], []), step_request(watched.model, [], [])]
    wrong[1].raw_input_contents[-1] = np.array([7], np.uint64).tobytes()  # its fingerprint
    for request, code in zip(wrong, (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE), strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watched.client._stub.ModelInfer(request)
        assert refused.value.code() == code
    await watched.step(release=(1, 2))
    told = watched.told() - before
    assert {name: told[f"refusals_total:{name}"] for name in LABELLED["refusals"][2]} == {
        "no_slot": 1,
        "unknown_sequence": 1,
        "bad_step": 1,
        "other_model": 1,
    }


async def test_a_cached_text_that_makes_room_is_an_eviction(watched: Watched) -> None:
    for sequence in range(1, 6):  # in two slots
        await watched.step(row(sequence, 0, (PROMPT + 100 * sequence) % 50257))
        await watched.step(release=(sequence,))
    before = watched.told()
    await watched.step(row(6, 0, (PROMPT + 600) % 50257))
    await watched.step(release=(6,))
    told = watched.told() - before
    assert (told["evictions_total:ended"], told["evictions_total:stale"]) == (1, 0)
