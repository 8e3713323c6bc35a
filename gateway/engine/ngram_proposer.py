"""Proposes a sequence's next tokens from the sequence itself: finds an earlier occurrence of its last tokens and repeats what
followed.

A model that quotes, edits or repeats writes tokens that are already in its prompt or output. Wrong guesses cost nothing in
quality: token_selection.py only accepts what would have been sampled anyway.
"""

import numpy as np

LONGEST_GRAM, SHORTEST_GRAM = 3, 1  # n-gram sizes looked up at the end of the sequence, longest first
LONGEST_MATCH = 16  # tokens; longer matches predict no better
CERTAIN = 0.95  # upper limit for a chance: every run of hits ends at some point
LEARNING_RATE = 1 / 16  # of a hit rate, per guessed token
# A sequence's initial hit rates, by how many tokens match before the guess: 1, 2 to 3, 4 to 7, 8 to 15, more.
FIRST_HIT_RATES = (0.2, 0.45, 0.65, 0.85, 0.95)

MIXERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd: multiply-shift hashing
BITS, MASK = 64, 2**64 - 1


class NgramProposer:
    """Follows one sequence and keeps the position after an earlier occurrence of its last tokens, if there is one.

    Each token costs a few microseconds. For every n-gram size, a hash table holds the position after the n-gram's last
    occurrence. On a collision the newer entry wins, so memory is bounded, and positions are used only after comparing the
    tokens. The position advances as long as guesses are right. So hit rates per match length are learned from every token,
    drafted or not, and finding out that a sequence cannot be guessed costs no drafts.
    """

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        """``tokens``: the sequence's own array, int32 [capacity], of which the first ``length`` are filled so far."""
        self._tokens, self._length = tokens, length
        self._read = memoryview(tokens.data)  # faster than numpy for single elements
        self._bits = (2 * len(tokens)).bit_length()
        self._tables: list[memoryview] = []  # by n-gram size, shortest first; entry 0: none. Built when first needed
        self._place = 0  # position where the guesses begin; 0: none
        self._matched = 0  # tokens before it that equal the sequence's last ones, at most LONGEST_MATCH
        self._hit_rates = list(FIRST_HIT_RATES)

    def read_to(self, length: int) -> None:
        """Catches up with the sequence, up to ``length`` tokens."""
        if not self._tables:
            self._length = max(self._length, length - 1)
            self._index_text()
        while self._length < length:
            self._note(self._read[self._length])

    def _note(self, token: int) -> None:
        """Processes the sequence's next token."""
        if self._place:
            hit = self._read[self._place] == token
            kind = _kind(self._matched)
            self._hit_rates[kind] += (hit - self._hit_rates[kind]) * LEARNING_RATE
            self._place, self._matched = (self._place + 1, min(self._matched + 1, LONGEST_MATCH)) if hit else (0, 0)
        self._length += 1
        slots = self._slots()
        if not self._place:
            self._look_up(slots)
        for table, slot in zip(self._tables, slots, strict=False):
            table[slot] = self._length

    def chances(self, most: int) -> list[float]:
        """For each of the next guesses, at most ``most``: the probability that it and all before it are right. Falling."""
        chances, chance = [], 1.0
        for ahead in range(most if self._place else 0):
            chance *= min(CERTAIN, self._hit_rates[_kind(self._matched + ahead)])
            chances.append(chance)
        return chances

    def draft(self, count: int) -> np.ndarray:
        """The next ``count`` guesses, int32; `chances` must have returned as many. Guesses past the end repeat cyclically."""
        return np.resize(self._tokens[self._place : self._length], count)

    def _index_text(self) -> None:
        """Indexes all n-grams so far at once, then looks up the last one."""
        text = self._tokens[: self._length].astype(np.uint64)
        tables = [np.zeros(2**self._bits, np.int32) for _ in range(SHORTEST_GRAM, LONGEST_GRAM + 1)]
        self._tables = [memoryview(table.data) for table in tables]
        for size, entries in enumerate(tables, SHORTEST_GRAM):
            ends = np.arange(size, self._length)  # after each n-gram except the last, which is looked up first
            if len(ends):
                hashes = sum(text[ends - 1 - back] * np.uint64(MIXERS[back]) for back in range(size))
                entries[hashes >> np.uint64(BITS - self._bits)] = ends  # the last occurrence wins
        slots = self._slots()
        self._look_up(slots)
        for table, slot in zip(self._tables, slots, strict=False):
            table[slot] = self._length

    def _slots(self) -> list[int]:
        """Table slots of the n-grams at the end of the sequence, shortest first; fewer if the sequence is shorter."""
        slots, mixed = [], 0
        for back in range(min(LONGEST_GRAM, self._length)):
            mixed += self._read[self._length - 1 - back] * MIXERS[back]
            if back + 1 >= SHORTEST_GRAM:
                slots.append((mixed & MASK) >> (BITS - self._bits))
        return slots

    def _look_up(self, slots: list[int]) -> None:
        for size, slot in reversed(list(enumerate(slots, SHORTEST_GRAM))):
            place = self._tables[size - SHORTEST_GRAM][slot]
            matched = self._common(place)
            if matched >= size:
                self._place, self._matched = place, matched
                return

    def _common(self, place: int) -> int:
        """How many tokens before ``place`` equal the sequence's last ones."""
        tokens, end, most = self._read, self._length, min(place, LONGEST_MATCH)
        return next((back for back in range(most) if tokens[place - 1 - back] != tokens[end - 1 - back]), most)


def _kind(matched: int) -> int:
    """Index of the hit rate for a match of ``matched`` tokens, at least 1."""
    return min(matched.bit_length(), len(FIRST_HIT_RATES)) - 1
