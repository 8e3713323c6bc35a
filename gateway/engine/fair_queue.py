"""Sequences that wait for a slot: a bounded queue, fair among API keys. Knows neither HTTP nor Triton."""

from collections import Counter, deque
from collections.abc import Iterator

from gateway.engine.sequence import Sequence

RESERVED = 8  # the last eighth of the queue is for keys with fewer queued sequences than free places


class FairQueue:
    """First come, first served within a key; among keys, the one with the fewest running sequences goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of_key: dict[str, deque[Sequence]] = {}  # by the key's name, in order of service

    def __len__(self) -> int:
        return sum(map(len, self._of_key.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for waiting in self._of_key.values() for sequence in waiting)

    def accepts(self, owner: str) -> bool:
        """Whether this key may queue one more sequence.

        The last places are shared by dynamic thresholds (Choudhury and Hahne, 1998): a key may have as many queued as there are
        free places, so that no single key can fill the queue.
        """
        free = self._capacity - len(self)
        own = len(self._of_key.get(owner, ()))
        return free > self._capacity // RESERVED or (free > 0 and own < max(1, free))

    def add(self, sequence: Sequence) -> None:
        self._of_key.setdefault(sequence.request.owner, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Requeues a sequence that has already run, ahead of its key's others."""
        self._of_key.setdefault(sequence.request.owner, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """Removes a sequence; returns False if it is not queued."""
        waiting = self._of_key.get(sequence.request.owner)
        if waiting is None or sequence not in waiting:
            return False
        waiting.remove(sequence)
        self._forget(sequence.request.owner)
        return True

    def take(self, running: Counter[str]) -> Sequence:
        """Removes and returns the next sequence. ``running``: running sequences per key. The queue must not be empty."""
        owner = min(self._of_key, key=lambda name: running[name])
        sequence = self._of_key[owner].popleft()
        waiting = self._of_key.pop(owner)
        if waiting:
            self._of_key[owner] = waiting  # behind other keys with as many running sequences
        return sequence

    def clear(self) -> list[Sequence]:
        """Removes and returns all of them."""
        waiting = list(self)
        self._of_key.clear()
        return waiting

    def _forget(self, owner: str) -> None:
        if not self._of_key[owner]:
            del self._of_key[owner]
