"""Work that takes long is shared fairly among keys."""

import asyncio
import time

import pytest

from gateway.errors import Overloaded
from gateway.threads import FairThreads

pytestmark = pytest.mark.anyio
SECONDS = 0.2  # that a piece of work takes


def work() -> float:
    time.sleep(SECONDS)
    return time.monotonic()


async def test_a_key_waits_for_its_own_work_and_hardly_for_that_of_another() -> None:
    threads = FairThreads("test", workers=1, share=1, patience=60)
    flood = [asyncio.ensure_future(threads.run("flood", work)) for _ in range(10)]
    await asyncio.sleep(0)
    end = await threads.run("other", work)
    assert sum(one.done() and one.result() < end for one in flood) <= 2
    await asyncio.gather(*flood)


async def test_work_that_would_wait_too_long_is_refused() -> None:
    threads = FairThreads("test", workers=1, share=1, patience=SECONDS / 2)
    first = asyncio.ensure_future(threads.run("key", work))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="Too much of this key's text"):
        await threads.run("key", work)
    await first


async def test_a_key_may_let_some_megabytes_wait_and_no_more_while_others_may_still() -> None:
    threads = FairThreads("test", workers=4, share=1, patience=60)
    asked = [asyncio.ensure_future(threads.run("key", work, size=1 << 20)) for _ in range(12)]
    await asyncio.sleep(SECONDS / 2)
    refused = [one for one in asked if one.done()]
    assert 5 <= len(refused) <= 9
    for one in refused:
        with pytest.raises(Overloaded, match="Too much of this key's text"):
            one.result()
    await threads.run("other", work, size=1 << 20)
    await asyncio.gather(*(one for one in asked if one not in refused))
    await threads.run("key", work, size=1 << 20)


async def test_work_whose_client_has_left_counts_until_its_thread_is_free() -> None:
    threads = FairThreads("test", workers=4, share=1, patience=60)
    began = time.monotonic()
    left = asyncio.ensure_future(threads.run("key", work))
    await asyncio.sleep(SECONDS / 4)
    left.cancel()
    assert await threads.run("key", work) - began >= 2 * SECONDS


async def test_errors_of_the_work_arrive() -> None:
    with pytest.raises(ZeroDivisionError):
        await FairThreads("test", workers=1, share=1, patience=60).run("key", lambda: 1 // 0)
