"""Which sequences take part in the next step, and with how many tokens. Knows neither HTTP nor Triton."""

from collections import deque

from gateway.sequence import Sequence
from gateway.step import StepRow


class Scheduler:
    """Continuous batching: a sequence joins at the step after it arrives and leaves when it ends.

    Every sequence that decodes takes part in every step with one token. Prefills share ``prefill_chunk`` tokens a step, first
    come first served, so that a long prompt delays the running texts by a bounded time.
    """

    def __init__(self, slots: int, prefill_chunk: int) -> None:
        self._slots, self._prefill_chunk = slots, prefill_chunk
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def running(self) -> int:
        """Sequences that have a slot, or get one in the next step."""
        return len(self._running) + len(self._waiting) - self.waiting

    @property
    def waiting(self) -> int:
        """Sequences that no slot is free for."""
        return max(0, len(self._running) + len(self._waiting) - self._slots)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """Takes a sequence out, wherever it is. True where it had begun, so that Triton may hold a slot for it."""
        if sequence in self._running:
            self._running.remove(sequence)
            return True
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        return False

    def drop_all(self) -> list[Sequence]:
        """Takes out every sequence and returns them."""
        dropped = self._running + list(self._waiting)
        self._running.clear()
        self._waiting.clear()
        return dropped

    def next(self) -> list[tuple[Sequence, StepRow]]:
        """The rows of the next step, in the order of admission; empty where nothing is to be done.

        Of sequences with the same prompt (the choices of one request) the first is computed alone: the others then find it
        cached.
        """
        while self._waiting and len(self._running) < self._slots:
            self._running.append(self._waiting.popleft())
        rows = []
        budget = self._prefill_chunk
        first: dict[int, Sequence] = {}  # by prompt
        for sequence in self._running:
            leader = first.setdefault(id(sequence.request.prompt_tokens), sequence)
            follows = leader is not sequence and sequence.cached == 0
            if sequence.missing == 1 and not sequence.scoring:
                rows.append((sequence, sequence.row(token_limit=1)))
            elif budget > 0 and not (follows and leader.cached < leader.length - 1):
                rows.append((sequence, sequence.row(token_limit=budget)))
                budget -= 1 if follows else sequence.missing
        return rows
