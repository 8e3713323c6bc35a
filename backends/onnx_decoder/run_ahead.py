"""Run-ahead: rows draw and compute their next tokens until they reach a limit, an end token or the time budget."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contract.drawing import Rules, sample, uniforms
from .contract.request import Rows
from .decoder import Candidates
from .layout import Batch

BLOCK = 8  # turns whose random numbers are computed at once


@dataclass(frozen=True)
class Drawn:
    candidates: Candidates  # of all positions, grouped by row
    tokens: np.ndarray  # int32 [sum of counts], row by row
    counts: np.ndarray  # int64 [rows]


class _Ahead:
    """The rows that are still running ahead."""

    def __init__(self, rows: Rows, going: np.ndarray, slots: np.ndarray, lengths: np.ndarray, limits: np.ndarray) -> None:
        """``going``: indices of the rows; ``slots``, ``lengths``, ``limits`` int64 [going]."""
        self.going, self.turn = going, 0
        self._limits, self._ignore_end, self._seeds = limits, rows.ignore_end[going] > 0, rows.seed[going]
        self._rules = Rules(rows.rule[going])
        ones = np.ones_like(going)
        self._batch = Batch(slots, lengths, ones, ones, np.zeros(len(going), np.bool_), np.zeros(len(going), np.int32))

    def next_batch(self, ids: np.ndarray, logits: np.ndarray, is_end: np.ndarray) -> Batch:
        """Draws a token for each row from its candidates. Drops the rows that end here."""
        # A token's index in the seed's stream is its position: the number of tokens before it.
        place = self.turn % BLOCK
        if place == 0:
            self._uniforms = uniforms(self._seeds[:, None], self._batch.pasts[:, None] + np.arange(BLOCK))
        tokens = sample(ids, logits, self._rules, self._uniforms[:, place])
        stays = (self._limits > self.turn) & (self._ignore_end | ~is_end[tokens])
        if not stays.all():
            self._keep(stays)
            tokens = tokens[stays]
        batch = self._batch._replace(tokens=tokens)
        self._batch = batch._replace(pasts=batch.pasts + 1)
        self.turn += 1
        return batch

    def _keep(self, rows: np.ndarray) -> None:
        self.going, self._rules, self._batch = self.going[rows], self._rules[rows], self._batch.of(np.flatnonzero(rows))
        self._limits, self._ignore_end = self._limits[rows], self._ignore_end[rows]
        self._seeds, self._uniforms = self._seeds[rows], self._uniforms[rows]


def run_ahead(
    rows: Rows,
    limits: np.ndarray,
    batch: Batch,
    first: Candidates,
    *,
    is_end: np.ndarray,
    forward: Callable[[Batch], Candidates],
    in_time: Callable[[], bool],
) -> Drawn:
    """Runs ahead after a pass of ``batch`` that returned ``first``. ``limits`` int64 [rows]: tokens that each row may draw,
    0 for rows that are not complete. ``is_end`` bool [vocabulary].

    A token is drawn from the candidates of the previous one, and kept only if it is computed. End tokens are not computed
    unless the row ignores them. ``in_time`` is called before each pass.
    """
    going = np.flatnonzero(limits)
    ahead = _Ahead(rows, going, batch.slots[going], (batch.pasts + batch.counts)[going], limits[going])
    last = batch.wanted.cumsum()[going] - 1
    ids, logits = first.candidate_id[last], first.candidate_logit[last]
    passes, owners, drawn = [first], [np.repeat(np.arange(len(rows)), batch.wanted)], []
    most = int(limits.max())
    while ahead.turn < most and in_time():
        batch = ahead.next_batch(ids, logits, is_end)
        if not len(batch.tokens):
            break
        found = forward(batch)
        ids, logits = found.candidate_id, found.candidate_logit
        passes.append(found)
        owners.append(ahead.going)
        drawn.append(batch.tokens)
    return _by_row(passes, owners, drawn, len(rows))


def _by_row(passes: list[Candidates], owners: list[np.ndarray], drawn: list[np.ndarray], rows: int) -> Drawn:
    """Groups the passes' positions and tokens by row. ``owners``: for each pass, the row of each position."""
    if not drawn:
        return Drawn(passes[0], np.zeros(0, np.int32), np.zeros(rows, np.int64))
    order = np.concatenate(owners).argsort(kind="stable")
    drawers = np.concatenate(owners[1:])
    candidates = Candidates(
        np.concatenate([one.candidate_id for one in passes]).take(order, axis=0),
        np.concatenate([one.candidate_logit for one in passes]).take(order, axis=0),
        np.concatenate([one.log_normalizer for one in passes])[order],
        passes[0].logits,
    )
    return Drawn(candidates, np.concatenate(drawn)[drawers.argsort(kind="stable")], np.bincount(drawers, minlength=rows))
