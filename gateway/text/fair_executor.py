"""Threads for work that may take seconds. A key that asks for much of it waits for itself; others do not wait for that key.

What waits holds its request in memory, so both its number and its bytes are bounded, of a key and of all keys together.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import Overloaded

MOST_BYTES = 4 << 20  # of what waits of a key
LARGE = 1 << 16  # bytes

Result = TypeVar("Result")


@dataclass
class Waiting:
    """Pieces of work and the bytes that they hold."""

    pieces: int = 0
    size: int = 0

    def would_exceed(self, most: "Waiting", size: int) -> bool:
        """A single piece may always wait, whatever its size."""
        return self.pieces + 1 > most.pieces or (self.pieces > 0 and self.size + size > most.size)


OF_ALL = 4  # times what may wait of a key


class FairExecutor:
    """``workers`` threads, on which each key runs at most ``share`` pieces of work at a time, its oldest first."""

    def __init__(self, name: str, workers: int, share: int, patience: float, most_waiting: int = 256) -> None:
        """``patience``: seconds that a piece of work waits for those of its own key, of which ``most_waiting`` may do so."""
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(share))  # by the key's name
        self._waiting = defaultdict[str, Waiting](Waiting)
        self._all_waiting = Waiting()
        self._patience = patience
        self._most_of_key = Waiting(most_waiting, MOST_BYTES)
        self._most_of_all = Waiting(OF_ALL * most_waiting, OF_ALL * MOST_BYTES)

    async def run(self, owner: str, work: Callable[[], Result], size: int = 0) -> Result:
        """Raises Overloaded, and whatever ``work`` raises. Work that has begun goes on to its end, and counts until then.

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
        except BaseException:  # the system gives no more threads
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
        """Raises Overloaded where too much waits already."""
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
    """A key's large pieces of work run one at a time, beside its small ones: those wait for none of them."""

    def __init__(self, name: str, *, patience: float, patience_of_large: float, most_waiting: int) -> None:
        self._small = FairExecutor(name, workers=8, share=4, patience=patience, most_waiting=most_waiting)
        self._large = FairExecutor(f"large {name}", workers=4, share=1, patience=patience_of_large)

    async def run(self, owner: str, work: Callable[[], Result], size: int) -> Result:
        """As `FairExecutor.run`."""
        return await (self._small if size < LARGE else self._large).run(owner, work, size)


def _too_much() -> Overloaded:
    return Overloaded("Too much of this key's text is being read already. Please try again later.", retry_after=1)
