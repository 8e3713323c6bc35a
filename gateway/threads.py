"""Threads for work that may take seconds. A key that asks for much of it waits for itself; others do not wait for that key."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gateway.errors import Overloaded

Result = TypeVar("Result")


class FairThreads:
    """``workers`` threads, on which each key runs at most ``share`` pieces of work at a time, its oldest first."""

    def __init__(self, name: str, workers: int, share: int, patience: float) -> None:
        """``patience``: seconds that a piece of work waits for those of its own key."""
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(share))  # by the key's name
        self._patience = patience

    async def run(self, owner: str, work: Callable[[], Result]) -> Result:
        """Raises Overloaded, and whatever ``work`` raises. Work that has begun goes on to its end, and counts until then."""
        turn, loop = self._turns[owner], asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience):
                await turn.acquire()
        except TimeoutError as error:
            message = "Too much of this key's text is being read already. Please try again later."
            raise Overloaded(message, retry_after=1) from error

        def give_back(_: "Future[Result]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(turn.release)

        begun = self._threads.submit(work)
        begun.add_done_callback(give_back)
        return await asyncio.wrap_future(begun)
