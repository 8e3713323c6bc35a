"""Tracks which slot holds which sequence, and what its cache contains: lengths, rollback, release, eviction, prefix reuse.

This is bookkeeping only; the cache itself is in the decoder. A slot is either *owned* by a sequence or *idle*. When a sequence
ends, its tokens stay cached as a possible prefix of another sequence until the slot is needed.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from .contract.limits import GATEWAY_BITS
from .layout import ranges

COPY_AT_LEAST = 16  # tokens; computing a shorter common prefix is as fast as copying it
REFUSED_FOR = 1.0  # seconds that a slot is kept for a gateway after a refusal; gateways retry every 0.1 s
STALE_AFTER = 60.0  # seconds without a step before an owned slot may be evicted: its gateway has died or is stuck


class KvPool:
    """``copy(source, target, length)`` copies a prefix of the cache between slots.

    ``room`` returns how many more tokens fit into memory, if the cache grows with use. It is None if the cache has all of its
    memory from the start.
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
        self._tokens = np.zeros((slots, context_length), np.int32)  # the cached tokens
        self._longest = np.zeros(slots, np.int32)  # most tokens that each slot has ever held: these have memory
        self._room = room
        self._owner: list[int | None] = [None] * slots
        self._slot_of: dict[int, int] = {}
        self._last_use = np.zeros(slots)  # seconds of the clock
        self._refused: dict[int, float] = {}  # gateways that were refused, in order, with the time of their last request
        self._copy, self._clock = copy, clock
        self._counts = defaultdict(float) if counts is None else counts  # reported by metrics.py

    @property
    def used(self) -> int:
        """The number of slots owned by a sequence."""
        return len(self._slot_of)

    def find(self, sequence_ids: list[int], past_lengths: np.ndarray) -> np.ndarray:
        """Returns the slots of sequences, int64 [sequences], after trimming them to ``past_lengths`` tokens [sequences].

        The slot is −1 if fewer tokens are cached, the sequence is unknown, or it is new (its past_length is 0).
        """
        slots = np.array([self._slot_of.get(sequence_id, -1) for sequence_id in sequence_ids], np.int64)
        known = (self.lengths[slots] >= past_lengths) & (past_lengths > 0) & (slots >= 0)
        slots[~known] = -1
        found = slots[known]
        self.lengths[found] = past_lengths[known]
        self._last_use[found] = self._clock()
        return slots

    def begin(self, sequence_id: int, tokens: np.ndarray, reusable: int) -> int:
        """Returns a slot for a new sequence that starts with ``tokens``, reusing the longest cached prefix of the first
        ``reusable`` tokens.

        Returns −1 if every slot belongs to a running sequence or is kept for a gateway that was refused earlier.
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
        """Records that the caches of ``slots`` now also hold ``tokens``, packed, ``counts`` for each slot."""
        lengths = self.lengths[slots]
        if len(tokens) == len(slots):
            self._tokens[slots, lengths] = tokens
        else:
            self._tokens[np.repeat(slots, counts), ranges(lengths, counts)] = tokens
        self.lengths[slots] = lengths = lengths + counts
        if self._room:
            self._longest[slots] = np.maximum(self._longest[slots], lengths)

    def release(self, sequence_id: int) -> None:
        """Marks the slot of an ended sequence as idle. Ignores unknown sequences, which may have been evicted."""
        slot = self._slot_of.pop(sequence_id, None)
        if slot is not None:
            self._owner[slot] = None
            if self.lengths[slot] < COPY_AT_LEAST:
                self.lengths[slot] = 0  # not worth keeping: empty slots are taken before reusable ones

    def spare(self) -> tuple[int, int]:
        """Returns a slot and a position after its cached tokens, for a token that nobody reads."""
        slot = int(self.lengths.argmin())
        self.lengths[slot] = min(self.lengths[slot], self._tokens.shape[1] - 1)
        return slot, int(self.lengths[slot])

    def _is_next(self, gateway: int) -> bool:
        """Whether it is this gateway's turn. Otherwise a gateway with many sequences would hold all slots forever: it asks for
        slots in the same step that frees them."""
        now = self._clock()
        self._refused = {one: asked for one, asked in self._refused.items() if now - asked < REFUSED_FOR}
        before = list(self._refused).index(gateway) if gateway in self._refused else len(self._refused)
        return before < max(1, self._owner.count(None))

    def _common_prefixes(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the length of the prefix that each slot's cache shares with ``tokens``: int [slots]."""
        if len(tokens) == 0:
            return np.zeros(len(self.lengths), np.int64)
        equal = self._tokens[:, : len(tokens)] == tokens
        first_difference = np.where(equal.all(axis=1), len(tokens), equal.argmin(axis=1))
        return np.minimum(first_difference, self.lengths)

    def _choose(self, source: int, common: int) -> int | None:
        """Chooses a slot for a new sequence whose longest cached prefix, ``common`` tokens, is in ``source``."""
        if self._owner[source] is None and common == self.lengths[source] > 0 and self._fits(source):
            return source  # the new sequence continues what is cached there: nothing is lost or copied
        free = [slot for slot, owner in enumerate(self._owner) if owner is None]
        if free:
            # Empty slots first, then the least recently used. The slot with the prefix comes last: copying keeps both.
            best = min(free, key=lambda slot: (common > 0 and slot == source, self.lengths[slot] > 0, self._last_use[slot]))
            if not self._fits(best):
                best = max(free, key=lambda slot: int(self._longest[slot]))  # needs the least new memory
            if self._fits(best) or not self._slot_of:  # if nothing is running, waiting would free nothing
                return best
        oldest = min(self._slot_of.values(), key=lambda slot: float(self._last_use[slot]))
        return oldest if self._clock() - self._last_use[oldest] > STALE_AFTER else None

    def _fits(self, slot: int) -> bool:
        """Whether memory suffices for a new sequence in ``slot`` and all running ones to fill their contexts."""
        if self._room is None:
            return True
        in_use = [slot, *self._slot_of.values()]
        growth = self._tokens.shape[1] * len(in_use) - int(self._longest[in_use].sum())
        return growth == 0 or growth <= self._room()

    def _own(self, slot: int, sequence_id: int) -> None:
        former = self._owner[slot]
        if former is not None:
            del self._slot_of[former]  # evicted: its next step gets "unknown" and its gateway resends it
        self._owner[slot] = sequence_id
        self._slot_of[sequence_id] = slot
