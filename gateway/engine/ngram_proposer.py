"""What may come next in a text, from the text itself: where its end stood before, what followed then may follow again.

A model that quotes, edits or repeats writes what already stands in its prompt or in its own text. Nothing is lost where it does
not: a draft is only a guess, and token_selection.py accepts what would have been sampled anyhow.
"""

import numpy as np

LONGEST_GRAM, SHORTEST_GRAM = 3, 1  # tokens at the text's end that are looked up, the longest first
LONGEST_MATCH = 16  # tokens; a match that is longer is as good
CERTAIN = 0.95  # no chance counts as more: a run of hits has an end that nobody has seen yet
LEARNING_RATE = 1 / 16  # of a hit rate, at every token that was guessed
# The hit rates that a text begins with, by the tokens that match before the guess: 1, 2 to 3, 4 to 7, 8 to 15, more.
FIRST_HIT_RATES = (0.2, 0.45, 0.65, 0.85, 0.95)

MIXERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd: multiply-shift hashing
BITS, MASK = 64, 2**64 - 1


class NgramProposer:
    """Follows one text, and always knows the place where its end stood before, if there is one.

    Each token costs some microseconds. A table for each length of n-gram holds the place behind its last occurrence, by hash;
    an n-gram that hashes alike takes its predecessor's entry, so memory is bounded, and a place counts only after its tokens
    were compared. While a guess proves right its place moves on; so the hit rate of every length of match is learned from every
    token, whether it was drafted or not, and a text that cannot be guessed costs nothing to find out.
    """

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        """``tokens`` int32 [capacity] is the text's own array, of which ``length`` are written; the others will be."""
        self._tokens, self._length = tokens, length
        self._read = memoryview(tokens.data)  # numbers come out of it faster
        self._bits = (2 * len(tokens)).bit_length()
        self._tables: list[memoryview] = []  # by length of n-gram from the shortest; 0: none. Made when first needed
        self._place = 0  # where the guesses begin; 0: nowhere
        self._matched = 0  # tokens before it that are the text's last ones, at most LONGEST_MATCH
        self._hit_rates = list(FIRST_HIT_RATES)

    def read_to(self, length: int) -> None:
        """Takes what the text has by now."""
        if not self._tables:
            self._length = max(self._length, length - 1)
            self._index_text()
        while self._length < length:
            self._note(self._read[self._length])

    def _note(self, token: int) -> None:
        """Takes the text's next token."""
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
        """For each of the next guesses, at most ``most``, how probably it and all before it are right: falling."""
        chances, chance = [], 1.0
        for ahead in range(most if self._place else 0):
            chance *= min(CERTAIN, self._hit_rates[_kind(self._matched + ahead)])
            chances.append(chance)
        return chances

    def draft(self, count: int) -> np.ndarray:
        """The next ``count`` guesses, int32; only where `chances` has as many. What overlaps the text's end repeats itself."""
        return np.resize(self._tokens[self._place : self._length], count)

    def _index_text(self) -> None:
        """All n-grams of what is there, at once; then the place of the last one before it."""
        text = self._tokens[: self._length].astype(np.uint64)
        tables = [np.zeros(2**self._bits, np.int32) for _ in range(SHORTEST_GRAM, LONGEST_GRAM + 1)]
        self._tables = [memoryview(table.data) for table in tables]
        for size, entries in enumerate(tables, SHORTEST_GRAM):
            ends = np.arange(size, self._length)  # behind each n-gram but the last: that is looked up first
            if len(ends):
                hashes = sum(text[ends - 1 - back] * np.uint64(MIXERS[back]) for back in range(size))
                entries[hashes >> np.uint64(BITS - self._bits)] = ends  # of equal ones the last counts
        slots = self._slots()
        self._look_up(slots)
        for table, slot in zip(self._tables, slots, strict=False):
            table[slot] = self._length

    def _slots(self) -> list[int]:
        """Where the tables have the n-grams at the text's end, from the shortest; fewer where the text is shorter."""
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
        """How many tokens before ``place`` are the text's last ones."""
        tokens, end, most = self._read, self._length, min(place, LONGEST_MATCH)
        return next((back for back in range(most) if tokens[place - 1 - back] != tokens[end - 1 - back]), most)


def _kind(matched: int) -> int:
    """Which of the hit rates belongs to a match of so many tokens, 1 at least."""
    return min(matched.bit_length(), len(FIRST_HIT_RATES)) - 1
