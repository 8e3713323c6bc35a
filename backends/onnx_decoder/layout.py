"""The layout of a pass: which slots take part, with how many tokens. It stays the same while the same rows decode."""

from typing import NamedTuple

import numpy as np

QUERY_BLOCK = 16  # queries per attention block; a block of one gets a second query that nothing reads


class Batch(NamedTuple):
    """New tokens to append to the caches of slots, each slot at most once. Arrays are int64 [rows] unless noted otherwise."""

    slots: np.ndarray
    pasts: np.ndarray  # tokens already in the slot's cache
    counts: np.ndarray  # new tokens, at least 1
    wanted: np.ndarray  # trailing positions to return candidates for, 0 … count
    full: np.ndarray  # bool [rows]: whether to return full logits there too
    tokens: np.ndarray  # int32 [sum of counts], row by row

    def of(self, rows: np.ndarray) -> "Batch":
        """Returns the batch of the given rows."""
        starts = self.counts.cumsum() - self.counts
        slots, pasts, counts, wanted, full = (column[rows] for column in self[:5])
        return Batch(slots, pasts, counts, wanted, full, self.tokens[ranges(starts[rows], counts)])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenates start, start + 1, …, start + count − 1 for each start and count: int64 [sum of counts]."""
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total)


class Layout:
    """The layout of a batch. Packed tokens are in row order; the padded view has a line for each slot of a range."""

    def __init__(self, batch: Batch, query_seqlens: bool) -> None:
        self._fixed, self._bytes = _fixed(batch), _bytes(batch)
        counts, wanted = batch.counts, batch.wanted
        self.first = int(batch.slots.min())
        self.lines = batch.slots - self.first  # of the rows, in the padded view
        # Number of queries of each row in attention.
        self.queries = counts + (counts % QUERY_BLOCK == 1) if query_seqlens else counts
        self.last_queries = self.queries - 1
        self.offsets = ranges(np.zeros_like(counts), counts)  # of each packed token in its row
        self._starts = counts.cumsum() - counts  # of the rows, in the packed tokens
        full = bool((batch.full & (wanted > 0)).any())
        # Determines the shapes of a run: slots, longest row, tokens, positions; and whether logits are returned.
        self.shape = (
            self.first,
            int(self.lines.max()) + 1,
            int(self.queries.max()),
            len(batch.tokens),
            int(wanted.sum()),
            full,
        )

    def holds(self, batch: Batch) -> bool:
        """Whether ``batch`` differs only in tokens and pasts."""
        slots, counts, wanted, full = self._fixed
        if batch.slots is slots and batch.counts is counts and batch.wanted is wanted and batch.full is full:
            return True
        same = _bytes(batch) == self._bytes
        if same:
            self._fixed = _fixed(batch)  # the next batch probably has the same array objects
        return same

    def previous(self, batch: Batch, cached: np.ndarray) -> np.ndarray:
        """Returns the token before each packed one in its sequence, −1 at the start: int64 [T]. ``cached``: the tokens in the
        slots, [slots, context_length]; the batch's tokens are written into it."""
        before = np.empty(len(batch.tokens), np.int64)
        before[1:] = batch.tokens[:-1]
        before[self._starts] = np.where(batch.pasts > 0, cached[batch.slots, batch.pasts - 1], -1)
        places = np.repeat(batch.pasts, batch.counts) + self.offsets
        cached[np.repeat(batch.slots, batch.counts), places] = batch.tokens
        return before

    def write(self, inputs: dict[str, np.ndarray]) -> None:
        """Writes the graph inputs that depend only on the layout."""
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
