"""One step: rows of sequences in, what is cached and the candidates of each out. Joins the pool and the decoder."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .decoder import Candidates, Decoder, Row
    from .kv_pool import KvPool

UNKNOWN = -1  # the sequence is not cached here: send all its tokens with past_length 0
NO_SLOT = -2  # every slot is in use: try again later


@dataclass(frozen=True)
class StepRow:
    """A sequence's part of a step; the fields are those of docs/wire-contract.md."""

    sequence_id: int
    past_length: int
    tokens: np.ndarray  # int32 [token_count]: everything known beyond past_length
    token_limit: int
    logit_count: int
    full_logits: bool


@dataclass(frozen=True)
class StepResult:
    cached_length: int
    reused_length: int  # of the cached tokens, those that this step did not compute
    candidates: "Candidates | None"  # None unless the row reached the end of its tokens


class Stepper:
    """``row_type`` is the decoder's ``Row``: Triton loads these files as top-level modules, so none imports another."""

    def __init__(
        self, pool: "KvPool", decoder: "Decoder", row_type: "type[Row]", counts: defaultdict[Any, float] | None = None
    ) -> None:
        self._pool, self._decoder, self._row = pool, decoder, row_type
        self._counts = defaultdict(float) if counts is None else counts  # what metrics.py tells

    def step(self, rows: Sequence[StepRow], release: Iterable[int]) -> list[StepResult]:
        """Runs all rows. The same sequence twice (two requests merged, one a retry) runs in two passes, in order."""
        for sequence_id in release:
            self._pool.release(sequence_id)
        results: dict[int, StepResult] = {}
        waiting = list(enumerate(rows))
        while waiting:
            seen: set[int] = set()
            now: list[tuple[int, StepRow]] = []
            later: list[tuple[int, StepRow]] = []
            for index, row in waiting:
                (later if row.sequence_id in seen else now).append((index, row))
                seen.add(row.sequence_id)
            results.update(self._pass(now))
            waiting = later
        return [results[index] for index in range(len(rows))]

    def _pass(self, rows: list[tuple[int, StepRow]]) -> dict[int, StepResult]:
        results: dict[int, StepResult] = {}
        runs = []
        for index, row in rows:
            slot = self._slot(row)
            if slot is None:
                results[index] = StepResult(UNKNOWN if row.past_length else NO_SLOT, 0, None)
                self._counts["refusals", "unknown_sequence" if row.past_length else "no_slot"] += 1
            else:
                runs.append((index, row, self._decoder_row(row, slot)))
        if runs:
            began = time.perf_counter()
            candidates = self._decoder.run([run for _, _, run in runs])
            self._counts["run_seconds"] += time.perf_counter() - began
            self._counts["step_tokens"] += sum(len(run.tokens) for _, _, run in runs)
            for (index, row, run), found in zip(runs, candidates, strict=True):
                self._pool.append(run.slot, run.tokens)
                cached = run.past + len(run.tokens)
                ended = cached == row.past_length + len(row.tokens)
                results[index] = StepResult(cached, run.past, found if ended else None)
        return results

    def _slot(self, row: StepRow) -> int | None:
        if row.past_length:
            return self._pool.find(row.sequence_id, row.past_length)
        # What a candidate is wanted for has to be computed; at least the last token always is.
        return self._pool.begin(row.sequence_id, row.tokens, len(row.tokens) - max(1, row.logit_count))

    def _decoder_row(self, row: StepRow, slot: int) -> "Row":
        past = int(self._pool.lengths[slot])
        tokens = row.tokens[past - row.past_length :]
        if len(tokens) <= row.token_limit:
            return self._row(slot, past, tokens, row.logit_count, row.full_logits)
        # A chunk; it leaves at least the wanted positions for the last one.
        chunk = max(1, min(row.token_limit, len(tokens) - row.logit_count))
        return self._row(slot, past, tokens[:chunk], 0)
