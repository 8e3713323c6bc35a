"""Which slots take part in a pass and with how many tokens: what stays the same while the same rows decode."""

from typing import NamedTuple

import numpy as np

QUERY_BLOCK = 16  # queries that attention takes at a time; a block of one brings a second query along that nothing reads


class Batch(NamedTuple):
    """New tokens of some slots, each slot once, to be appended behind what its cache already holds. int64 [rows] where nothing
    else is said."""

    slots: np.ndarray
    pasts: np.ndarray  # tokens that the slot's cache holds
    counts: np.ndarray  # new tokens, at least 1
    wanted: np.ndarray  # of how many trailing positions the candidates are wanted, 0 … count
    full: np.ndarray  # bool [rows]: whether all logits are wanted there too
    tokens: np.ndarray  # int32 [sum of counts], row by row

    def of(self, rows: np.ndarray) -> "Batch":
        """Some of the rows."""
        starts = self.counts.cumsum() - self.counts
        slots, pasts, counts, wanted, full = (column[rows] for column in self[:5])
        return Batch(slots, pasts, counts, wanted, full, self.tokens[ranges(starts[rows], counts)])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, … for each start as many as its count says, one after the other: int64 [sum of counts]."""
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total)


class Layout:
    """Of a batch. The packed tokens lie in the order of its rows; the padded view has a line for each slot of a range."""

    def __init__(self, batch: Batch, query_seqlens: bool) -> None:
        self._fixed, self._bytes = _fixed(batch), _bytes(batch)
        counts, wanted = batch.counts, batch.wanted
        self.first = int(batch.slots.min())
        self.lines = batch.slots - self.first  # of the rows, in the padded view
        # How many queries the rows have in attention.
        self.queries = counts + (counts % QUERY_BLOCK == 1) if query_seqlens else counts
        self.last_queries = self.queries - 1
        self.offsets = ranges(np.zeros_like(counts), counts)  # of each packed token in its row
        self._starts = counts.cumsum() - counts  # of the rows, in the packed tokens
        full = bool((batch.full & (wanted > 0)).any())
        # What the shapes of a run follow from: slots, longest row, tokens, positions; and whether logits are fetched.
        self.shape = (
            self.first,
            int(self.lines.max()) + 1,
            int(self.queries.max()),
            len(batch.tokens),
            int(wanted.sum()),
            full,
        )

    def holds(self, batch: Batch) -> bool:
        """Whether ``batch`` differs in nothing but tokens and pasts."""
        slots, counts, wanted, full = self._fixed
        if batch.slots is slots and batch.counts is counts and batch.wanted is wanted and batch.full is full:
            return True
        same = _bytes(batch) == self._bytes
        if same:
            self._fixed = _fixed(batch)  # the next one is likely to have these very arrays
        return same

    def previous(self, batch: Batch, cached: np.ndarray) -> np.ndarray:
        """The token before each packed one in its sequence, −1 where that begins: int64 [T]. ``cached``: the tokens that slots
        hold, [slots, context_length]; those of the batch are added."""
        before = np.empty(len(batch.tokens), np.int64)
        before[1:] = batch.tokens[:-1]
        before[self._starts] = np.where(batch.pasts > 0, cached[batch.slots, batch.pasts - 1], -1)
        places = np.repeat(batch.pasts, batch.counts) + self.offsets
        cached[np.repeat(batch.slots, batch.counts), places] = batch.tokens
        return before

    def write(self, inputs: dict[str, np.ndarray]) -> None:
        """The graph's inputs that follow from the layout alone."""
        _, counts, wanted, _ = self._fixed
        ends = counts.cumsum()
        padded = np.repeat(self.lines, counts) * self.shape[2] + self.offsets
        inputs["pack_index"][:] = padded
        inputs["unpack_index"][:] = 0
        inputs["unpack_index"][self.lines] = (ends - 1)[:, None]  # any query beyond a row's own repeats its last token
        inputs["unpack_index"].reshape(-1)[padded] = np.arange(len(padded))
        inputs["seqlens_k"][:] = 0  # an idle slot has no query: its length does not matter
        if "query_seqlens" in inputs:
            inputs["query_seqlens"][:] = 0
            inputs["query_seqlens"][self.lines] = self.queries
        inputs["logit_index"][:] = ranges(ends - wanted, wanted)


def _fixed(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return batch.slots, batch.counts, batch.wanted, batch.full


def _bytes(batch: Batch) -> tuple[bytes, ...]:
    return batch.slots.tobytes(), batch.counts.tobytes(), batch.wanted.tobytes(), batch.full.tobytes()
