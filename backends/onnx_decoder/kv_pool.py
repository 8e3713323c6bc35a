"""Which slot holds which sequence, and what its cache contains: lengths, rollback, release, eviction, prefix reuse.

Bookkeeping only; the cache itself is in the decoder. A slot is *owned* by a sequence, or *idle*: its sequence has ended, its
tokens stay cached as a possible prefix of another one until the slot is needed.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from .contract.limits import GATEWAY_BITS
from .layout import ranges

COPY_AT_LEAST = 16  # tokens; a shorter common prefix is computed as fast as it is copied
REFUSED_FOR = 1.0  # seconds: so long after it was refused a slot is kept for a gateway, which asks every 0.1 s
STALE_AFTER = 60.0  # seconds without a step after which an owned slot may be evicted: its gateway has died or is stuck


class KvPool:
    """``copy(source, target, length)`` copies a prefix of the cache between slots.

    ``room`` says how many more tokens the memory can take, where the cache grows as it is used; None where it has all of its
    memory already.
    """

    def __init__(
        self,
        slots: int,
        context_length: int,
        copy: Callable[[int, int, int], None],
        clock: Callable[[], float] = time.monotonic,
        counts: defaultdict[Any, float] | None = None,
        room: Callable[[], int] | None = None,
    ) -> None:
        self.lengths = np.zeros(slots, np.int32)  # tokens cached in each slot
        self._tokens = np.zeros((slots, context_length), np.int32)  # which ones
        self._longest = np.zeros(slots, np.int32)  # most tokens that each slot has held: those have memory
        self._room = room
        self._owner: list[int | None] = [None] * slots
        self._slot_of: dict[int, int] = {}
        self._last_use = np.zeros(slots)  # seconds of the clock
        self._refused: dict[int, float] = {}  # gateways that found no slot, the first one first: when they asked last
        self._copy, self._clock = copy, clock
        self._counts = defaultdict(float) if counts is None else counts  # what metrics.py tells

    @property
    def used(self) -> int:
        """Slots that belong to a sequence."""
        return len(self._slot_of)

    def find(self, sequence_ids: list[int], past_lengths: np.ndarray) -> np.ndarray:
        """The slots of sequences, int64 [sequences], trimmed to ``past_lengths`` tokens [sequences]; −1 where fewer are cached,
        it is unknown, or it begins: its past_length is 0."""
        slots = np.array([self._slot_of.get(sequence_id, -1) for sequence_id in sequence_ids], np.int64)
        known = (self.lengths[slots] >= past_lengths) & (past_lengths > 0) & (slots >= 0)
        slots[~known] = -1
        found = slots[known]
        self.lengths[found] = past_lengths[known]
        self._last_use[found] = self._clock()
        return slots

    def begin(self, sequence_id: int, tokens: np.ndarray, reusable: int) -> int:
        """A slot for a sequence that begins with ``tokens``, holding as many of the first ``reusable`` as are cached anywhere.

        −1 where every slot belongs to a sequence that is running, or is kept for gateways that were refused before.
        """
        common = self._common_prefixes(tokens[:reusable])
        source = int(common.argmax())
        length = int(common[source])
        slot = self._slot_of.get(sequence_id)
        if slot is None:
            gateway = sequence_id >> 64 - GATEWAY_BITS
            slot = self._choose(source, length) if self._is_next(gateway) else None
            if slot is None:
                self._refused[gateway] = self._clock()
                return -1
            self._refused.pop(gateway, None)
            if self.lengths[slot] > common[slot]:
                self._counts["evictions", "ended" if self._owner[slot] is None else "stale"] += 1
            self._own(slot, sequence_id)
        held = int(common[slot])
        if slot != source and length >= held + COPY_AT_LEAST:
            self._copy(source, slot, length)
            self._tokens[slot, :length] = tokens[:length]
            self._longest[slot] = max(self._longest[slot], length)
            held = length
        self._counts["prefix_cache_queries"] += reusable
        self._counts["prefix_cache_hits"] += held
        self.lengths[slot] = held
        self._last_use[slot] = self._clock()
        return slot

    def append(self, slots: np.ndarray, counts: np.ndarray, tokens: np.ndarray) -> None:
        """Notes that the caches of ``slots`` now also hold ``tokens``, packed: so many of each as ``counts`` says."""
        lengths = self.lengths[slots]
        if len(tokens) == len(slots):
            self._tokens[slots, lengths] = tokens
        else:
            self._tokens[np.repeat(slots, counts), ranges(lengths, counts)] = tokens
        self.lengths[slots] = lengths = lengths + counts
        if self._room:
            self._longest[slots] = np.maximum(self._longest[slots], lengths)

    def release(self, sequence_id: int) -> None:
        """The sequence has ended; its slot becomes idle. An unknown sequence is ignored: it may have been evicted."""
        slot = self._slot_of.pop(sequence_id, None)
        if slot is not None:
            self._owner[slot] = None
            if self.lengths[slot] < COPY_AT_LEAST:
                self.lengths[slot] = 0  # not worth keeping: an empty slot is taken before any that could be reused

    def spare(self) -> tuple[int, int]:
        """A slot and a position behind what is cached there, for a token that nobody reads."""
        slot = int(self.lengths.argmin())
        self.lengths[slot] = min(self.lengths[slot], self._tokens.shape[1] - 1)
        return slot, int(self.lengths[slot])

    def _is_next(self, gateway: int) -> bool:
        """Else a gateway with many texts would have all slots for ever: it asks in the very step that frees them."""
        now = self._clock()
        self._refused = {one: asked for one, asked in self._refused.items() if now - asked < REFUSED_FOR}
        before = list(self._refused).index(gateway) if gateway in self._refused else len(self._refused)
        return before < max(1, self._owner.count(None))

    def _common_prefixes(self, tokens: np.ndarray) -> np.ndarray:
        """For each slot, how many of ``tokens`` its cache begins with: int [slots]."""
        if len(tokens) == 0:
            return np.zeros(len(self.lengths), np.int64)
        equal = self._tokens[:, : len(tokens)] == tokens
        first_difference = np.where(equal.all(axis=1), len(tokens), equal.argmin(axis=1))
        return np.minimum(first_difference, self.lengths)

    def _choose(self, source: int, common: int) -> int | None:
        """The slot to give to a new sequence whose longest cached prefix, ``common`` tokens, is in ``source``."""
        if self._owner[source] is None and common == self.lengths[source] > 0 and self._fits(source):
            return source  # the new sequence continues what is cached there: nothing is lost and nothing is copied
        free = [slot for slot, owner in enumerate(self._owner) if owner is None]
        if free:
            # Empty slots first, then the least recently used; the slot with the prefix last, for copying keeps both.
            best = min(free, key=lambda slot: (common > 0 and slot == source, self.lengths[slot] > 0, self._last_use[slot]))
            if not self._fits(best):
                best = max(free, key=lambda slot: int(self._longest[slot]))  # needs the least new memory
            if self._fits(best) or not self._slot_of:  # where nothing runs, waiting would free nothing
                return best
        oldest = min(self._slot_of.values(), key=lambda slot: float(self._last_use[slot]))
        return oldest if self._clock() - self._last_use[oldest] > STALE_AFTER else None

    def _fits(self, slot: int) -> bool:
        """Whether there is memory for a new sequence in ``slot`` and all that run to fill their contexts."""
        if self._room is None:
            return True
        in_use = [slot, *self._slot_of.values()]
        growth = self._tokens.shape[1] * len(in_use) - int(self._longest[in_use].sum())
        return growth == 0 or growth <= self._room()

    def _own(self, slot: int, sequence_id: int) -> None:
        former = self._owner[slot]
        if former is not None:
            del self._slot_of[former]  # evicted: its next step is answered "unknown" and its gateway sends it again
        self._owner[slot] = sequence_id
        self._slot_of[sequence_id] = slot
