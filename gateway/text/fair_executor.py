"""Threads for work that may take seconds. A key with much work delays only itself, not other keys.

Waiting work keeps its request in memory, so its number and its bytes are limited, per key and for all keys together.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import Overloaded

MOST_BYTES = 4 << 20  # of a key's waiting work
LARGE = 1 << 16  # bytes

Result = TypeVar("Result")


@dataclass
class Waiting:
    """The number of waiting pieces of work, and their bytes."""

    pieces: int = 0
    size: int = 0

    def would_exceed(self, most: "Waiting", size: int) -> bool:
        """Whether one more piece would exceed the limits. A single piece may always wait, whatever its size."""
        return self.pieces + 1 > most.pieces or (self.pieces > 0 and self.size + size > most.size)


OF_ALL = 4  # limit for all keys together, as a multiple of a key's limit


class FairExecutor:
    """``workers`` threads, on which each key runs at most ``share`` pieces of work at a time, oldest first."""

    def __init__(self, name: str, workers: int, share: int, patience: float, most_waiting: int = 256) -> None:
        """``patience``: seconds that a piece of work waits for others of its key. ``most_waiting``: limit per key."""
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(share))  # by the key's name
        self._waiting = defaultdict[str, Waiting](Waiting)
        self._all_waiting = Waiting()
        self._patience = patience
        self._most_of_key = Waiting(most_waiting, MOST_BYTES)
        self._most_of_all = Waiting(OF_ALL * most_waiting, OF_ALL * MOST_BYTES)

    async def run(self, owner: str, work: Callable[[], Result], size: int = 0) -> Result:
        """Runs ``work`` in a thread. Raises Overloaded, and whatever ``work`` raises. Work that has started always
        finishes, and counts until then.

        ``size``: bytes that it holds while it waits.
        """
        turn, loop = self._turns[owner], asyncio.get_running_loop()
        if turn.locked():
            await self._wait(owner, turn, size)
        else:
            await turn.acquire()

        def give_back(_: "Future[Result]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(turn.release)

        try:
            begun = self._threads.submit(work)
        except BaseException:  # the system cannot start more threads
            turn.release()
            raise
        begun.add_done_callback(give_back)
        return await asyncio.wrap_future(begun)

    async def _wait(self, owner: str, turn: asyncio.Semaphore, size: int) -> None:
        try:
            with self._counted(owner, size):
                async with asyncio.timeout(self._patience):
                    await turn.acquire()
        except TimeoutError as error:
            raise _too_much() from error

    @contextmanager
    def _counted(self, owner: str, size: int) -> Iterator[None]:
        """Counts a waiting piece. Raises Overloaded if too much is waiting already."""
        of_key = self._waiting[owner]
        if of_key.would_exceed(self._most_of_key, size) or self._all_waiting.would_exceed(self._most_of_all, size):
            raise _too_much()
        for waiting in (of_key, self._all_waiting):
            waiting.pieces += 1
            waiting.size += size
        try:
            yield
        finally:
            for waiting in (of_key, self._all_waiting):
                waiting.pieces -= 1
                waiting.size -= size


class FairExecutorBySize:
    """Runs a key's large pieces of work one at a time, separately from small ones, which never wait for them."""

    def __init__(self, name: str, *, patience: float, patience_of_large: float, most_waiting: int) -> None:
        self._small = FairExecutor(name, workers=8, share=4, patience=patience, most_waiting=most_waiting)
        self._large = FairExecutor(f"large {name}", workers=4, share=1, patience=patience_of_large)

    async def run(self, owner: str, work: Callable[[], Result], size: int) -> Result:
        """See `FairExecutor.run`."""
        return await (self._small if size < LARGE else self._large).run(owner, work, size)


def _too_much() -> Overloaded:
    return Overloaded("Too much of this key's text is being read already. Please try again later.", retry_after=1)
