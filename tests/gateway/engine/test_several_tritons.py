"""Several Tritons behind one gateway: texts go to the least loaded, and go on elsewhere when theirs dies."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import grpc.aio
import httpx
import pytest

from gateway.engine.generation import SamplingParameters
from gateway.engine.registry import Registry
from gateway.errors import BackendUnavailable, Overloaded
from gateway.settings import Settings, SettingsError
from gateway.triton.discovery import TritonDiscovery, parse_urls
from testing.triton import Triton
from tests.conftest import TINY, gateway_process
from tests.gateway.engines import GREEDY, engine_on, engine_on_all, in_mid_text, request, text_of, until

HOT = SamplingParameters(temperature=1.0, top_k=40)
PROMPTS = ["The king", "To be", "Once upon a time", "It was", "In the beginning", "All happy families"]


pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]


@pytest.fixture
def two(model_repository: Path, tmp_path: Path) -> Iterator[list[Triton]]:
    with ExitStack() as running:
        yield [running.enter_context(Triton(model_repository, tmp_path / str(n), [TINY], slots=4)) for n in range(2)]


def texts_by_triton(engine: object) -> list[int]:
    return [len(replica.sequences) for replica in engine._replicas.values()]  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_texts_are_spread_over_the_tritons(two: list[Triton]) -> None:
    async with engine_on_all(two) as engine:
        texts = [asyncio.ensure_future(text_of(engine, request(engine, prompt, tokens=200))) for prompt in PROMPTS]
        await until(lambda: engine.running == len(PROMPTS))
        assert texts_by_triton(engine) == [3, 3]
        await asyncio.gather(*texts)
        assert engine.idle


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "seeded"])
async def test_texts_of_a_dead_triton_go_on_at_the_other_byte_for_byte(two: list[Triton], sampling: SamplingParameters) -> None:
    async with engine_on_all(two, speculation=False) as engine:  # else a text that repeats itself may be over too soon
        requests = [request(engine, prompt, sampling, 300) for prompt in PROMPTS]
        expected = [await text_of(engine, one) for one in requests]
        texts = asyncio.gather(*(text_of(engine, one) for one in requests))
        await in_mid_text(engine, len(PROMPTS))
        os.kill(two[0].pid, signal.SIGKILL)
        async with asyncio.timeout(20):  # well within the recovery timeout: nobody starts it again
            assert await texts == expected
        assert texts_by_triton(engine) == [0, 0]
        await engine.probe()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "seeded"])
async def test_texts_of_a_stopped_triton_go_on_at_the_other_within_seconds(
    two: list[Triton], sampling: SamplingParameters
) -> None:
    async with engine_on_all(two, speculation=False) as engine:  # else a text that repeats itself may be over too soon
        requests = [request(engine, prompt, sampling, 300) for prompt in PROMPTS]
        expected = [await text_of(engine, one) for one in requests]
        texts = asyncio.gather(*(text_of(engine, one) for one in requests))
        await in_mid_text(engine, len(PROMPTS))
        os.kill(two[0].pid, signal.SIGSTOP)  # its connections stay open, and nothing answers there
        try:
            async with asyncio.timeout(15):  # half of the time that a step may take
                assert await texts == expected
        finally:
            os.kill(two[0].pid, signal.SIGCONT)


@pytest.mark.slow
async def test_triton_that_comes_back_gets_texts_again(two: list[Triton]) -> None:
    async with engine_on_all(two) as engine:
        await asyncio.to_thread(two[0].stop)
        assert await text_of(engine, request(engine, "The king"))
        await asyncio.to_thread(two[0].start)
        await asyncio.to_thread(two[0].wait_ready, 60)
        await asyncio.sleep(1)
        texts = [asyncio.ensure_future(text_of(engine, request(engine, prompt, tokens=200))) for prompt in PROMPTS]
        await until(lambda: engine.running == len(PROMPTS))
        assert min(texts_by_triton(engine)) == 3
        await asyncio.gather(*texts)


@pytest.mark.slow
async def test_texts_move_when_their_triton_is_taken_away(two: list[Triton]) -> None:
    async with engine_on_all(two, speculation=False) as engine:
        expected = await text_of(engine, request(engine, "The king", tokens=300))
        texts = [asyncio.ensure_future(text_of(engine, request(engine, "The king", tokens=300))) for _ in range(6)]
        await in_mid_text(engine, 6)
        await engine.remove_replica(two[0].grpc_address)
        assert await asyncio.gather(*texts) == [expected] * 6


@pytest.mark.slow
async def test_texts_wait_where_the_name_of_their_triton_moves_to_one_that_is_not_up_yet(two: list[Triton]) -> None:
    old, new = (("127.0.0.1", int(triton.grpc_address.rpartition(":")[2])) for triton in two)
    await asyncio.to_thread(two[1].stop)
    async with (
        TritonDiscovery(two[0].grpc_address, 30) as tritons,
        Registry(tritons, Settings(triton_url=two[0].grpc_address, run_ahead=0)) as registry,
    ):
        engine = registry.engine(TINY)
        expected = await text_of(engine, request(engine, "The king", HOT, 600))
        text = asyncio.ensure_future(text_of(engine, request(engine, "The king", HOT, 600)))
        await in_mid_text(engine, 1)
        del tritons._addresses[old]
        tritons._addresses[new] = set()
        await registry.look()
        assert engine.addresses == set() and registry.engine(TINY) is engine
        with pytest.raises(BackendUnavailable):
            await engine.probe()
        await registry.look()
        assert not text.done()
        await asyncio.to_thread(two[1].start)
        await asyncio.to_thread(two[1].wait_ready, 60)
        async with asyncio.timeout(20):
            assert await text == expected


async def test_what_answers_and_is_no_triton_changes_nothing(two: list[Triton]) -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        async with TritonDiscovery(f"{two[0].grpc_address},127.0.0.1:{port}", 30) as tritons:
            assert await tritons.wait_for_models(20) == [TINY]
            assert list(await tritons.models()) == [two[0].grpc_address]
    finally:
        await other.stop(None)


async def test_no_key_starves_another(start_triton: Callable[..., AbstractContextManager[Triton]]) -> None:
    with start_triton(TINY, slots=2) as triton:
        async with engine_on(triton) as engine:
            flood = [
                asyncio.ensure_future(text_of(engine, request(engine, "The king", tokens=40, owner="flood"))) for _ in range(40)
            ]
            await until(lambda: engine.running == 2)
            await text_of(engine, request(engine, "To be", tokens=40, owner="other"))
            assert sum(text.done() for text in flood) < 10  # first come, first served would have let all of them pass
            await asyncio.gather(*flood)


async def test_text_that_waits_too_long_for_a_slot_is_told_when_to_come_again(
    start_triton: Callable[..., AbstractContextManager[Triton]],
) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton, queue_timeout=1, speculation=False) as engine:
            long = asyncio.ensure_future(text_of(engine, request(engine, "The king", tokens=1000)))
            await in_mid_text(engine, 1)
            with pytest.raises(Overloaded) as refused:
                await text_of(engine, request(engine, "To be"))
            assert refused.value.retry_after is not None and refused.value.retry_after >= 1
            assert not long.done()
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)


async def test_text_that_waits_too_long_for_a_slot_that_other_gateways_hold_is_told_when_to_come_again(
    start_triton: Callable[..., AbstractContextManager[Triton]],
) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton, speculation=False) as holds, engine_on(triton, queue_timeout=1) as waits:
            long = asyncio.ensure_future(text_of(holds, request(holds, "The king", tokens=1000)))
            await in_mid_text(holds, 1)
            with pytest.raises(Overloaded):
                await text_of(waits, request(waits, "To be"))
            assert not long.done() and waits.idle
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)


async def test_gateway_serves_on_with_one_triton_of_two(two: list[Triton], tmp_path: Path, api_key: str) -> None:
    urls = ",".join(triton.grpc_address for triton in two)
    with gateway_process(urls, tmp_path / "log", MODEL_NAME=TINY) as address:
        os.kill(two[1].pid, signal.SIGKILL)
        for _ in range(3):
            answer = httpx.post(
                f"{address}/generate", headers={"X-API-Key": api_key}, json={"prompt": "The king", "max_length": 5}, timeout=30
            )
            assert answer.status_code == 200, answer.text
        assert httpx.get(f"{address}/readyz", timeout=10).status_code == 200


async def test_name_with_several_addresses_is_all_of_them_and_one_that_vanishes_is_let_go() -> None:
    tritons = TritonDiscovery("127.0.0.1:7, 127.0.0.2:7", 1)
    await tritons.refresh()
    assert sorted(tritons.clients) == ["127.0.0.1:7", "127.0.0.2:7"]
    tritons._addresses.pop(("127.0.0.2", 7))
    gone = await tritons.refresh()
    assert (list(gone), sorted(tritons.clients)) == (["127.0.0.2:7"], ["127.0.0.1:7"])
    for client in [*gone.values(), *tritons.clients.values()]:
        await client.close()


@pytest.mark.parametrize("urls", ["", ",", "localhost", "http://localhost:8001", "localhost:0", "localhost:99999", "a:1,b"])
def test_bad_triton_url_is_named(urls: str) -> None:
    with pytest.raises((SettingsError, BackendUnavailable), match="TRITON_URL"):
        parse_urls(urls)
