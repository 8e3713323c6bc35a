"""What bodies that are still on their way may hold: of one key, and of all keys together.

A client that pauses before its last byte holds up to a megabyte for BODY_TIMEOUT seconds, and it may do so on many connections.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded

SMALL = 64 << 10  # bytes of a body that do not count: any connection may hold as much
MOST_OF_A_KEY = 32 << 20  # bytes
MOST = 64 << 20  # bytes


class Uploads:
    def __init__(self) -> None:
        self._held = Counter[str]()  # bytes, by the key's name

    @contextmanager
    def begin(self, owner: str) -> Iterator[Callable[[int], None]]:
        """For as long as a body comes. What is yielded is called with the bytes that it has, or is going to have, and raises
        Overloaded where bodies hold too much.
        """
        held = 0

        def hold(length: int) -> None:
            nonlocal held
            more = length - held if length > SMALL else 0
            if self._held[owner] + more > MOST_OF_A_KEY or self._held.total() + more > MOST:
                raise Overloaded("Too many bodies are on their way already. Please send it again in 1s.", retry_after=1)
            self._held[owner] += more
            held += more

        try:
            yield hold
        finally:
            self._held[owner] -= held
            if not self._held[owner]:
                del self._held[owner]
