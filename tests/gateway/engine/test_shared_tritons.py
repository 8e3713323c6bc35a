"""Several gateways on the same Tritons: each knows its own texts alone, until it finds no slot."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from gateway.engine import sequence
from gateway.engine.engine import Engine
from gateway.errors import BackendUnavailable
from testing.triton import Triton
from tests.conftest import TINY
from tests.gateway.engines import engine_on, engine_on_all, generated, in_mid_text, request, text_of, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]


@pytest.fixture
def two(model_repository: Path, tmp_path: Path) -> Iterator[list[Triton]]:
    """Of one slot each."""
    with ExitStack() as running:
        yield [running.enter_context(Triton(model_repository, tmp_path / str(n), [TINY], slots=1)) for n in range(2)]


async def test_a_text_that_finds_no_slot_goes_to_another_triton(two: list[Triton]) -> None:
    async with engine_on_all(two, speculation=False) as one, engine_on_all(two, speculation=False) as other:
        long = asyncio.ensure_future(text_of(one, request(one, "The king", tokens=1000)))
        await in_mid_text(one, 1)
        for _ in range(4):  # which Triton it asks first is chance
            await text_of(other, request(other, "To be", tokens=3))
        assert not long.done()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)


async def test_a_gateway_with_many_texts_leaves_slots_to_another(
    start_triton: Callable[..., AbstractContextManager[Triton]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_triton(TINY, slots=2) as triton:
        async with engine_on(triton) as busy, engine_on(triton) as other:
            monkeypatch.setattr(sequence, "GATEWAY", 1)
            many = [asyncio.ensure_future(text_of(busy, request(busy, "The king", tokens=40))) for _ in range(60)]
            await until(lambda: busy.running == 2)
            monkeypatch.setattr(sequence, "GATEWAY", 2)
            for _ in range(3):
                await text_of(other, request(other, "To be", tokens=10))
            assert sum(text.done() for text in many) < 30
            await asyncio.gather(*many)


async def test_a_text_that_waits_for_another_gateways_slot_does_not_keep_others_from_running_ahead(
    start_triton: Callable[..., AbstractContextManager[Triton]],
) -> None:
    async def steps(engine: Engine) -> int:
        """Of a text of 400 tokens."""
        deltas, _ = await generated(engine, request(engine, "The king", tokens=400, ignore_eos=True))
        return len(deltas)

    with start_triton(TINY, slots=2) as triton:
        async with engine_on(triton, speculation=False) as holds, engine_on(triton, run_ahead=25, speculation=False) as engine:
            await steps(engine)  # what a step takes is learned
            alone = await steps(engine)
            long = asyncio.ensure_future(text_of(holds, request(holds, "The king", tokens=1000)))
            await in_mid_text(holds, 1)
            text = asyncio.ensure_future(steps(engine))
            await until(lambda: engine.running == 1)
            waiting = asyncio.ensure_future(text_of(engine, request(engine, "To be", tokens=3)))
            beside = await text
            assert not long.done()
            for one in (waiting, long):
                one.cancel()
            await asyncio.gather(waiting, long, return_exceptions=True)
    assert alone < 100 and beside < 200


async def test_a_gateway_that_closes_in_mid_text_leaves_its_slots_to_others(
    start_triton: Callable[..., AbstractContextManager[Triton]],
) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton) as other:
            async with engine_on(triton) as closes:
                text = asyncio.ensure_future(text_of(closes, request(closes, "The king", tokens=900)))
                await in_mid_text(closes, 1)
            assert isinstance(*await asyncio.gather(text, return_exceptions=True), BackendUnavailable)
            async with asyncio.timeout(5):
                assert await text_of(other, request(other, "To be", tokens=3))
