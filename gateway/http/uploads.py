"""Limits the memory held by bodies that are still arriving, per key and in total.

A client that pauses before the last byte holds up to a megabyte for BODY_TIMEOUT seconds, and it may do so on many connections.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded

SMALL = 64 << 10  # bytes; bodies up to this size do not count: any connection may hold one
MOST = 64 << 20  # bytes
MOST_OF_A_KEY = MOST // 2  # bytes, if no other key holds any: see `begin`


class Uploads:
    def __init__(self) -> None:
        self._held = Counter[str]()  # bytes, by the key's name

    @contextmanager
    def begin(self, owner: str, declared: int = 0) -> Iterator[Callable[[int], None]]:
        """Use while a body arrives. Call the yielded function with the number of bytes received so far; it raises Overloaded if
        bodies hold too much. `begin` itself raises Overloaded if there is no room for the ``declared`` bytes. Those count only
        once more than SMALL have arrived: a mere declaration holds nothing.

        A key may hold as much as it leaves free. So however many keys are at their limit, one more finds room, and when little
        is left, the keys that hold most are refused first.
        """
        held = 0

        def hold(length: int) -> None:
            nonlocal held
            more = max(length, declared) - held if length > SMALL else 0
            self._require_room(owner, more)
            self._held[owner] += more
            held += more

        self._require_room(owner, declared if declared > SMALL else 0)
        try:
            yield hold
        finally:
            self._held[owner] -= held
            if not self._held[owner]:
                del self._held[owner]

    def _require_room(self, owner: str, more: int) -> None:
        if more and self._held[owner] + more > MOST - self._held.total() - more:
            error = Overloaded("Too many bodies are on their way already. Please send it again in 1s.", retry_after=1)
            error.headers["Connection"] = "close"  # so its body is not read either
            raise error
