"""The texts that wait for a slot: bounded, and fair among the keys that sent them. Knows neither HTTP nor Triton."""

from collections import Counter, deque
from collections.abc import Iterator

from gateway.engine.sequence import Sequence

RESERVED = 8  # the last eighth of the queue is for keys that wait with less than what is free


class FairQueue:
    """First come, first served within a key; among keys, the one with the fewest running texts is served first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of_key: dict[str, deque[Sequence]] = {}  # by the key's name, in the order of their first waiting text

    def __len__(self) -> int:
        return sum(map(len, self._of_key.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for waiting in self._of_key.values() for sequence in waiting)

    def accepts(self, owner: str) -> bool:
        """Whether one more text of this key may wait.

        The last places are shared by dynamic thresholds (Choudhury and Hahne, 1998): a key may hold there as many as it leaves
        free, so that no key alone can fill the queue for all others.
        """
        free = self._capacity - len(self)
        own = len(self._of_key.get(owner, ()))
        return free > self._capacity // RESERVED or (free > 0 and own < max(1, free))

    def add(self, sequence: Sequence) -> None:
        self._of_key.setdefault(sequence.request.owner, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """For a text that has run already: it is the next of its key."""
        self._of_key.setdefault(sequence.request.owner, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """False where it does not wait here."""
        waiting = self._of_key.get(sequence.request.owner)
        if waiting is None or sequence not in waiting:
            return False
        waiting.remove(sequence)
        self._forget(sequence.request.owner)
        return True

    def take(self, running: Counter[str]) -> Sequence:
        """The next one; ``running``: how many texts of each key run. The queue must not be empty."""
        owner = min(self._of_key, key=lambda name: running[name])
        sequence = self._of_key[owner].popleft()
        waiting = self._of_key.pop(owner)
        if waiting:
            self._of_key[owner] = waiting  # behind the other keys with as many running texts
        return sequence

    def clear(self) -> list[Sequence]:
        """Takes out all of them."""
        waiting = list(self)
        self._of_key.clear()
        return waiting

    def _forget(self, owner: str) -> None:
        if not self._of_key[owner]:
            del self._of_key[owner]
