"""Threads for work that may take seconds. A key that asks for much of it waits for itself; others do not wait for that key."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gateway.errors import Overloaded

Result = TypeVar("Result")

# Bytes of bodies that may wait for their turn, of one key and in all: read, a body takes several times its size.
WAITING_OF_A_KEY, WAITING = 4 << 20, 16 << 20
SMALLEST = 16 << 10  # bytes: what any request takes beside its body


class FairThreads:
    """``workers`` threads, on which each key runs at most ``share`` pieces of work at a time, its oldest first."""

    def __init__(self, name: str, workers: int, share: int, patience: float) -> None:
        """``patience``: seconds that a piece of work waits for those of its own key."""
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(share))  # by the key's name
        self._patience = patience
        self._waiting = Counter[str]()  # key → bytes

    async def run(self, owner: str, work: Callable[[], Result], *, size: int = 0) -> Result:
        """``size``: bytes that are held while it waits. Raises Overloaded, and whatever ``work`` raises. Work that has begun
        goes on to its end, and counts until then."""
        turn, loop = self._turns[owner], asyncio.get_running_loop()
        await self._wait_for(turn, owner, size + SMALLEST)

        def give_back(_: "Future[Result]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(turn.release)

        begun = self._threads.submit(work)
        begun.add_done_callback(give_back)
        return await asyncio.wrap_future(begun)

    async def _wait_for(self, turn: asyncio.Semaphore, owner: str, size: int) -> None:
        error = Overloaded("Too much of this key's text is being read already. Please try again later.", retry_after=1)
        if turn.locked() and (self._waiting[owner] + size > WAITING_OF_A_KEY or self._waiting.total() + size > WAITING):
            raise error
        self._waiting[owner] += size
        try:
            async with asyncio.timeout(self._patience):
                await turn.acquire()
        except TimeoutError as late:
            raise error from late
        finally:
            self._waiting[owner] -= size
            if not self._waiting[owner]:
                del self._waiting[owner]
