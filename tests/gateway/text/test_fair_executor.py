"""Work that takes long is shared fairly among keys."""

import asyncio
import time

import pytest

from gateway.errors import Overloaded
from gateway.text.fair_executor import LARGE, MOST_BYTES, FairExecutor, FairExecutorBySize

pytestmark = pytest.mark.anyio
MOST = 20  # pieces of work that wait
SECONDS = 0.2  # that a piece of work takes


def work() -> float:
    time.sleep(SECONDS)
    return time.monotonic()


async def test_a_key_waits_for_its_own_work_and_hardly_for_that_of_another() -> None:
    threads = FairExecutor("test", workers=1, share=1, patience=60)
    flood = [asyncio.ensure_future(threads.run("flood", work)) for _ in range(10)]
    await asyncio.sleep(0)
    end = await threads.run("other", work)
    assert sum(one.done() and one.result() < end for one in flood) <= 2
    await asyncio.gather(*flood)


async def test_work_that_would_wait_too_long_is_refused() -> None:
    threads = FairExecutor("test", workers=1, share=1, patience=SECONDS / 2)
    first = asyncio.ensure_future(threads.run("key", work))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="Too much of this key's text"):
        await threads.run("key", work)
    await first


async def test_more_than_may_wait_is_refused_at_once_and_what_waits_is_done() -> None:
    threads = FairExecutor("test", workers=2, share=1, patience=60, most_waiting=MOST)
    sizes = [MOST_BYTES, MOST_BYTES, 1, 0]  # the first one runs, the second waits
    asked = [asyncio.ensure_future(threads.run("key", work, size)) for size in sizes]
    done, _ = await asyncio.wait(asked, timeout=SECONDS / 4)
    assert done == {asked[2]} and isinstance(asked[2].exception(), Overloaded)
    few = [asyncio.ensure_future(threads.run("other", lambda: None)) for _ in range(MOST)]
    assert await asyncio.gather(*few) == [None] * MOST
    await asyncio.gather(asked[0], asked[1], asked[3])
    many = [asyncio.ensure_future(threads.run("key", work)) for _ in range(MOST + 3)]
    await asyncio.sleep(SECONDS / 4)
    assert [isinstance(one.exception(), Overloaded) for one in many if one.done()] == [True] * 2
    for one in many:
        one.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    await threads.run("key", work, MOST_BYTES)  # what has left is no longer counted


async def test_small_work_does_not_wait_for_the_large_work_of_its_key() -> None:
    threads = FairExecutorBySize("test", patience=60, patience_of_large=60, most_waiting=MOST)
    large = [asyncio.ensure_future(threads.run("key", work, LARGE)) for _ in range(3)]
    await asyncio.gather(*(threads.run("key", lambda: None, LARGE - 1) for _ in range(MOST)))
    assert not any(one.done() for one in large)
    assert max(await asyncio.gather(*large)) - min(await asyncio.gather(*large)) > 1.5 * SECONDS


async def test_work_whose_client_has_left_counts_until_its_thread_is_free() -> None:
    threads = FairExecutor("test", workers=4, share=1, patience=60)
    began = time.monotonic()
    left = asyncio.ensure_future(threads.run("key", work))
    await asyncio.sleep(SECONDS / 4)
    left.cancel()
    assert await threads.run("key", work) - began >= 2 * SECONDS


async def test_errors_of_the_work_arrive() -> None:
    with pytest.raises(ZeroDivisionError):
        await FairExecutor("test", workers=1, share=1, patience=60).run("key", lambda: 1 // 0)


async def test_key_whose_work_no_thread_took_has_its_turn_back() -> None:
    threads = FairExecutor("test", workers=1, share=1, patience=60)

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads._threads, "submit", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            await threads.run("key", work)
    assert await threads.run("key", lambda: 7) == 7
