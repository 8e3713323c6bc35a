"""A fault in one sequence ends that one, is logged once with its request's id, and changes nothing for the others."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engine import delivery
from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRecord, GenerationRequest, SamplingParameters
from gateway.engine.ngram_proposer import NgramProposer
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.errors import BackendUnavailable, InternalError
from gateway.settings import Settings
from gateway.text.model import Model
from gateway.triton.client import TritonClient
from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.gateway.engines import GREEDY, engine_on, request, text_of, until

VICTIM = 666  # the seed of sequences that a fault hits
PENALISED = SamplingParameters(temperature=0.9, top_k=0, presence_penalty=0.5)
# What the loop, the guard itself and a sequence's reader use, and what is called before a sequence runs.
OUTSIDE = {"ended", "failed", "runnable", "fail", "take", "was_scheduled", "generated_tokens", "lose_cache", "take_again"}
OUTSIDE |= {"_token_ids"}  # of `take`
OF_SEQUENCE = [name for name in vars(Sequence) if not name.startswith("__") and name not in OUTSIDE]
OF_DELIVERY = ["selection_of", "select", "select_from_whole", "logprob"]
OF_PLANNING = ["chances", "draft", "read_to"]


class Panic(BaseException):
    """As a panic of a library in Rust comes out."""


class Fault:
    """Replaces a call by one that fails wherever it is for a victim."""

    def __init__(self, error: BaseException, *, always: bool = False) -> None:
        self.error, self.hits, self._always = error, 0, always

    def hit(self, *values: object) -> None:
        if self._always or any(_is_victims(value) for value in values):
            self.hits += 1
            raise self.error

    def around(self, call: Any) -> Any:
        if isinstance(call, property):
            return property(self.around(call.fget))

        def faulty(*args: Any, **kwargs: Any) -> Any:
            self.hit(*args)
            return call(*args, **kwargs)

        return faulty


def _is_victims(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_is_victims, value))
    if isinstance(value, NgramProposer):
        return bool((value._tokens[:2] == 7).all())  # what a victim's prompt begins with
    sequence = getattr(value, "sequence", value)
    return isinstance(sequence, Sequence) and sequence.request.seed == VICTIM


def victims(engine: Engine) -> list[GenerationRequest]:
    """Two from candidates, with guesses, of which one tells log-probabilities; one from whole rows; one whose prompt alone is
    scored."""
    prompt = [7, 7, *engine.model.tokenizer.encode("The king, the king, the king, the king")]
    more: dict[str, Any] = {"seed": VICTIM, "logprobs": 2, "owner": "victim", "request_id": "req_victim"}
    return [
        GenerationRequest(prompt, 60, GREEDY, **more),
        GenerationRequest(prompt, 60, GREEDY, **more | {"logprobs": None}),
        GenerationRequest(prompt, 20, PENALISED, **more),
        GenerationRequest(prompt, 0, GREEDY, prompt_logprobs=0, **more),
    ]


async def run_with_fault(engine: Engine, caplog: pytest.LogCaptureFixture, inject: Callable[[], Fault]) -> None:
    neighbours = [request(engine, "The king", GREEDY, 60), request(engine, "The sea is", PENALISED, 40)]
    expected = [await text_of(engine, one) for one in neighbours]
    beside = asyncio.gather(*(text_of(engine, one) for one in neighbours))
    await until(lambda: engine.running == len(neighbours))
    fault = inject()
    ends = await asyncio.gather(*(text_of(engine, one) for one in victims(engine)), return_exceptions=True)
    assert fault.hits, "the fault was never met"
    failed = [end for end in ends if isinstance(end, Exception)]
    assert failed and all(isinstance(end, InternalError) for end in failed)
    assert await beside == expected
    assert engine.alive and engine.running == 0
    logged = [record for record in caplog.records if record.exc_info and record.exc_info[1] is fault.error]
    ended = [record for record in logged if "sequence" in record.getMessage()]
    assert len(ended) == len(failed)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
@pytest.mark.parametrize("error", [RuntimeError("no"), Panic("no")], ids=["error", "panic"])
async def test_fault_at_any_call_of_the_delivery_ends_its_sequence_alone(
    triton: TritonServer, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    places = [(Sequence, name) for name in OF_SEQUENCE] + [(NgramProposer, name) for name in OF_PLANNING]
    async with engine_on(triton, run_ahead=25) as running_ahead, engine_on(triton) as drafting:
        for owner, name in [*places, *((delivery, name) for name in OF_DELIVERY)]:
            engine = drafting if owner is NgramProposer or name == "draft_chances" else running_ahead
            call = inspect.getattr_static(owner, name)
            if not callable(call) and not isinstance(call, property):
                continue
            caplog.clear()
            with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.ERROR):

                def inject(owner: Any = owner, name: str = name, call: Any = call, patch: Any = patch) -> Fault:
                    fault = Fault(error, always=name == "logprob")  # nobody else asks for one
                    patch.setattr(owner, name, fault.around(call))
                    return fault

                try:
                    await run_with_fault(engine, caplog, inject)
                except AssertionError as failure:
                    raise AssertionError(f"a fault at {name}: {failure}") from failure


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_rule_that_cannot_be_applied_ends_its_sequence_alone(triton: TritonServer) -> None:
    """Tokens of all rows are chosen at once; here no rule of any row is refused before."""
    async with engine_on(triton) as engine:
        good = request(engine, "The king", SamplingParameters(temperature=0.9, top_k=40), 40)
        expected = await text_of(engine, good)
        broken = request(engine, "The king", SamplingParameters(0.9, top_k=40, top_p="hot"))  # type: ignore[arg-type]
        ends = await asyncio.gather(*(text_of(engine, one) for one in (good, broken, good)), return_exceptions=True)
        assert isinstance(ends.pop(1), InternalError)
        assert ends == [expected, expected]


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_where_no_thread_can_be_begun_texts_are_the_same(triton: TritonServer, caplog: pytest.LogCaptureFixture) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with engine_on(triton) as engine:
        asked = request(engine, "The king", PENALISED, 20)
        expected = await text_of(engine, asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delivery._QUICK, "submit", no_thread)
            assert await text_of(engine, asked) == expected
    assert "can't start new thread" in caplog.text


class Poisoned:
    """A real Triton that fails with ``error`` whenever a sequence of the victim is in a step."""

    def __init__(self, client: TritonClient, error: Exception) -> None:
        self._client, self._error = client, error
        self.failures = 0

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        if any((row.tokens[:2] == 7).all() for row in rows if len(row.tokens) > 1):
            self.failures += 1
            raise self._error
        return await self._client.step(model, rows, release, time_budget)


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
@pytest.mark.parametrize(
    ("error", "most_failures"),
    [(InternalError(), 2), (RuntimeError("bytes of no answer"), 2), (BackendUnavailable("It has died."), 6)],
    ids=["refused", "nonsense", "dead"],
)
async def test_sequence_that_no_triton_takes_ends_alone(triton: TritonServer, error: Exception, most_failures: int) -> None:
    async with TritonClient(triton.grpc_address) as client:
        model, poisoned = await client.describe(TINY), Poisoned(client, error)
        engine = Engine(model, Settings())
        engine.add_replica(triton.grpc_address, poisoned, model)
        neighbours = [request(engine, prompt, GREEDY, 60) for prompt in ("The king", "The sea is", "To be")]
        expected = [await text_of(engine, one) for one in neighbours]
        beside = asyncio.gather(*(text_of(engine, one) for one in neighbours))
        await until(lambda: engine.running == len(neighbours))
        with pytest.raises(InternalError):
            await text_of(engine, victims(engine)[0])
        assert await beside == expected
        assert 1 <= poisoned.failures <= most_failures
        await engine.close(BackendUnavailable("The test is over."))


class LeftAlone:
    """A real Triton that fails once, in a step of two texts, of which the second's reader has left meanwhile."""

    def __init__(self, client: TritonClient, leave: Callable[[], None]) -> None:
        self._client, self._leave = client, leave
        self.failed = False

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        if len(rows) == 2 and not self.failed:
            self.failed = True
            self._leave()
            raise InternalError
        return await self._client.step(model, rows, release, time_budget)


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_a_text_whose_neighbour_left_is_not_blamed_for_their_step(triton: TritonServer) -> None:
    async with TritonClient(triton.grpc_address) as client:
        model, backend = await client.describe(TINY), LeftAlone(client, lambda: left.close())
        engine = Engine(model, Settings())
        asked = request(engine, "The king", GREEDY, 60)
        left = engine.generate([request(engine, "To be", GREEDY, 60)], GenerationRecord())
        text = asyncio.ensure_future(text_of(engine, asked))
        await until(lambda: engine.waiting == 2)
        engine.add_replica(triton.grpc_address, backend, model)
        assert len(await text) > 60 and backend.failed
        await engine.close(BackendUnavailable("The test is over."))


LOOP_THAT_DIES = """
import gateway.engine.replica
async def die(*_):
    raise RuntimeError("the loop's own fault")
gateway.engine.replica.Replica._recover = die
"""


def test_loop_that_has_died_is_seen_by_liveness_and_health_within_a_second_and_logged(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], tmp_path: Path, api_key: str
) -> None:
    with start_triton(TINY, slots=2) as triton, Gateway(triton.grpc_address, tmp_path / "log", LOOP_THAT_DIES) as gateway:
        triton.stop()
        with pytest.raises(httpx.TimeoutException):
            body = {"prompt": "The king", "max_length": 5}
            httpx.post(f"{gateway.url}/generate", json=body, headers={"X-API-Key": api_key}, timeout=1)
        for path in ("/livez", "/readyz", "/health"):
            answer = httpx.get(gateway.url + path, timeout=5)
            assert (path, answer.status_code) == (path, 503)
            assert "has ended" in answer.json()["error"]["message"]
        log = (tmp_path / "log").read_text()
        assert "CRITICAL" in log and "the loop's own fault" in log
