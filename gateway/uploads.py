"""What bodies that are still on their way may hold: of one key, and of all keys together.

A client that pauses before its last byte holds up to a megabyte for BODY_TIMEOUT seconds, and it may do so on many connections.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded, RateLimited
from gateway.keys import ApiKey

LEAST = 64 << 10  # bytes that any connection with a body on its way counts for
MOST_OF_A_KEY = 32 << 20  # bytes
MOST = 64 << 20  # bytes


class Uploads:
    def __init__(self) -> None:
        self._held = Counter[str]()  # bytes, by the key's name
        self._under_way = Counter[str]()

    @contextmanager
    def begin(self, key: ApiKey) -> Iterator[Callable[[int], None]]:
        """For as long as a body comes. What is yielded is called with the bytes that it holds by now.

        Raises, as that does, Overloaded where bodies hold too much, and RateLimited where the key sends more requests at once
        than may run at once.
        """
        limit = key.concurrent_requests
        if limit is not None and self._under_way[key.name] >= limit:
            message = f"Rate limit reached: the key {key.name!r} may use {limit} at once, and that many are being sent."
            raise RateLimited(f"{message} Please try again in 1s.", limit="concurrent_requests", retry_after=1)
        held = 0

        def hold(length: int) -> None:
            nonlocal held
            more = max(length, LEAST) - held
            if self._held[key.name] + more > MOST_OF_A_KEY or self._held.total() + more > MOST:
                raise Overloaded("Too many bodies are on their way already. Please send it again in 1s.", retry_after=1)
            self._held[key.name] += more
            held += more

        self._under_way[key.name] += 1
        try:
            hold(0)
            yield hold
        finally:
            for counter, amount in ((self._under_way, 1), (self._held, held)):
                counter[key.name] -= amount
                if not counter[key.name]:
                    del counter[key.name]
