"""Executes a step: assigns slots to rows, decides what to compute and builds the answers. Connects the pool and the decoder."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .contract.limits import NO_SLOT, UNKNOWN
from .contract.request import Rows, Step, merge
from .contract.step import StepAnswer
from .decoder import Candidates, Decoder
from .kv_pool import KvPool
from .layout import Batch, ranges
from .run_ahead import Drawn, run_ahead

NO_LOGITS = np.zeros((0, 0), np.float32)


class Stepper:
    """``end_tokens`` end a sequence: no row runs ahead past one unless it has ``ignore_end``."""

    def __init__(
        self,
        pool: KvPool,
        decoder: Decoder,
        end_tokens: Iterable[int] = (),
        counts: defaultdict[Any, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pool, self._decoder, self._clock = pool, decoder, clock
        self._is_end = np.zeros(decoder.vocabulary_size, np.bool_)
        self._is_end[list(end_tokens)] = True
        self._counts = defaultdict(float) if counts is None else counts  # reported by metrics.py
        self._pass_seconds = 0.0  # duration of the last pass
        k = decoder.candidate_count
        self._nothing = Candidates(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.float32))

    def step(self, requests: Sequence[Step]) -> list[StepAnswer]:
        """Returns an answer for each request. Computes their rows together; if a sequence is in two requests (one is a retry of
        the other), computes it twice, in order."""
        began = self._clock()
        return [answer for group in _without_retries(requests) for answer in self._step(group, began)]

    def _step(self, requests: list[Step], began: float) -> list[StepAnswer]:
        if not any(request.rows or request.release for request in requests):
            self._probe()
        for request in requests:
            for sequence_id in request.release:
                self._pool.release(sequence_id)
        rows = merge([request.rows for request in requests])
        slots = self._slots(rows)
        refused = slots < 0
        batch = self._batch(rows, slots)
        found = self._compute(batch.of(np.flatnonzero(~refused)) if refused.any() else batch)
        drawn = self._run_ahead(requests, rows, batch, found, began)
        cached = batch.pasts + batch.counts + drawn.counts
        if refused.any():
            cached[refused] = np.where(rows.past_length > 0, UNKNOWN, NO_SLOT)[refused]
        answer = StepAnswer(
            cached_length=cached,
            reused_length=batch.pasts,
            drawn_count=drawn.counts,
            candidate_id=drawn.candidates.candidate_id,
            candidate_logit=drawn.candidates.candidate_logit,
            log_normalizer=drawn.candidates.log_normalizer,
            logits=NO_LOGITS if drawn.candidates.logits is None else drawn.candidates.logits,
            drawn=drawn.tokens,
            compute_seconds=self._clock() - began,
        )
        return [answer] if len(requests) == 1 else _split(answer, requests, batch)

    def _probe(self) -> None:
        """An empty step is a health check: computes a token that nobody reads, without taking a slot."""
        slot, past = self._pool.spare()
        one = np.ones(1, np.int64)
        self._decoder.forward(Batch(one * slot, one * past, one, one, np.zeros(1, np.bool_), np.zeros(1, np.int32)))

    def _slots(self, rows: Rows) -> np.ndarray:
        """The slot of each row, int64 [rows]; −1 if a row gets none and is refused."""
        slots = self._pool.find(rows.sequence_id, rows.past_length)
        if (slots >= 0).all():
            return slots
        begins = rows.past_length == 0
        starts = rows.token_count.cumsum() - rows.token_count
        for row in np.flatnonzero(begins).tolist():
            tokens = rows.tokens[starts[row] : starts[row] + rows.token_count[row]]
            # Positions with requested candidates must be computed, and always at least the last token.
            reusable = len(tokens) - max(1, int(rows.logit_count[row]))
            slots[row] = self._pool.begin(rows.sequence_id[row], tokens, reusable)
        self._counts["refusals", "no_slot"] += int((begins & (slots < 0)).sum())
        self._counts["refusals", "unknown_sequence"] += int((~begins & (slots < 0)).sum())
        return slots

    def _batch(self, rows: Rows, slots: np.ndarray) -> Batch:
        """What to compute for each row: nothing if it has no slot."""
        held, full = self._pool.lengths[slots].astype(np.int64), rows.full_logits > 0
        left = rows.past_length + rows.token_count - held
        if (left == rows.token_count).all() and (left <= rows.token_limit).all() and (slots >= 0).all():
            return Batch(slots, held, left, rows.logit_count, full, rows.tokens)
        held, left = np.where(slots < 0, 0, held), np.where(slots < 0, 0, left)
        # A chunk leaves at least the requested positions for the last chunk.
        chunk = np.maximum(1, np.minimum(rows.token_limit, left - rows.logit_count))
        counts = np.where(left <= rows.token_limit, left, chunk)
        wanted = np.where((counts == left) & (slots >= 0), rows.logit_count, 0)
        return Batch(slots, held, counts, wanted, full, rows.tokens[ranges(rows.token_count.cumsum() - left, counts)])

    def _compute(self, batch: Batch) -> Candidates:
        if not len(batch.slots):
            return self._nothing
        began = self._clock()
        found = self._decoder.forward(batch)
        self._pass_seconds = self._clock() - began
        self._counts["run_seconds"] += self._pass_seconds
        self._counts["step_tokens"] += len(batch.tokens)
        self._pool.append(batch.slots, batch.counts, batch.tokens)
        return found

    def _run_ahead(self, requests: list[Step], rows: Rows, batch: Batch, found: Candidates, began: float) -> Drawn:
        """Runs ahead no further than the most restrictive request allows, in tokens and in time."""
        most = min((int(request.rows.run_ahead.max()) for request in requests if request.rows), default=0)
        ended = batch.pasts + batch.counts == rows.past_length + rows.token_count
        limits = np.minimum(np.where(ended, rows.run_ahead, 0), most) if most else rows.run_ahead[:0]
        if not limits.any():
            return Drawn(found, np.zeros(0, np.int32), np.zeros(len(rows), np.int64))
        budgets = [request.time_budget for request in requests if request.time_budget is not None]
        end = began + min(budgets) / 1e6 if budgets else np.inf
        return run_ahead(
            rows,
            limits,
            batch,
            found,
            is_end=self._is_end,
            forward=self._compute,
            in_time=lambda: self._clock() + self._pass_seconds <= end,
        )


def _without_retries(requests: Iterable[Step]) -> Iterator[list[Step]]:
    """Splits the requests, in order, into groups in which no sequence occurs twice or is released by a later request."""
    part: list[Step] = []
    sequences: set[int] = set()
    for request in requests:
        if not sequences.isdisjoint([*request.rows.sequence_id, *request.release]):
            yield part
            part, sequences = [], set()
        part.append(request)
        sequences.update(request.rows.sequence_id)
    if part:
        yield part


def _split(answer: StepAnswer, requests: list[Step], batch: Batch) -> list[StepAnswer]:
    """Splits a combined answer into one per request."""
    ends = np.cumsum([0, *(len(request.rows) for request in requests)])

    def parts(counts: np.ndarray) -> list[slice]:
        """Each request's slice of an array with ``counts`` entries per row."""
        return [slice(*bounds) for bounds in pairwise(np.append(0, counts.cumsum())[ends].tolist())]

    each = zip(
        parts(np.ones_like(batch.wanted)),
        parts(np.where(batch.wanted > 0, batch.wanted + answer.drawn_count, 0)),
        parts(batch.wanted * batch.full),
        parts(answer.drawn_count),
        strict=True,
    )
    return [
        StepAnswer(
            cached_length=answer.cached_length[rows],
            reused_length=answer.reused_length[rows],
            drawn_count=answer.drawn_count[rows],
            candidate_id=answer.candidate_id[positions],
            candidate_logit=answer.candidate_logit[positions],
            log_normalizer=answer.log_normalizer[positions],
            logits=answer.logits[asked],
            drawn=answer.drawn[drawn],
            compute_seconds=answer.compute_seconds,
        )
        for rows, positions, asked, drawn in each
    ]
