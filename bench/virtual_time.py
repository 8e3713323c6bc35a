"""An event loop whose clock jumps to the next thing that is due: hours pass in seconds, and in the same order every time."""

import asyncio
import selectors
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class _Jumping(selectors.BaseSelector):
    """Where the loop would sleep, the clock moves."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing is due: the simulation is stuck")
            self.now += max(0.0, timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


@contextmanager
def virtual_time() -> Iterator[asyncio.Runner]:
    """A runner whose coroutines, and everything that asks `time.monotonic`, live in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop, real = runner.get_loop(), time.monotonic
        time.monotonic = loop.time
        try:
            yield runner
        finally:
            time.monotonic = real
