"""Running ahead: rows draw their next tokens and compute them, until a limit, an end token or the time stops them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contract.drawing import Rules, sample, uniforms
from .contract.request import Rows
from .decoder import Candidates
from .layout import Batch


@dataclass(frozen=True)
class Drawn:
    candidates: Candidates  # of all positions, all those of a row together
    tokens: np.ndarray  # int32 [sum of counts], row by row
    counts: np.ndarray  # int64 [rows]


class _Ahead:
    """The rows that still run ahead."""

    def __init__(self, rows: Rows, going: np.ndarray, slots: np.ndarray, lengths: np.ndarray, limits: np.ndarray) -> None:
        """``going``: which of the rows; ``slots``, ``lengths``, ``limits`` int64 [going]."""
        self.going, self.limits, self.ignore_end = going, limits, rows.ignore_end[going] > 0
        self.rules = Rules(rows.rule[going])
        # A token's number of the seed's stream is its position: how many tokens stand before it.
        self.uniforms = uniforms(rows.seed[going, None], lengths[:, None] + np.arange(limits.max()))
        ones = np.ones_like(going)
        self.batch = Batch(slots, lengths, ones, ones, np.zeros(len(going), np.bool_), np.zeros(len(going), np.int32))

    def keep(self, rows: np.ndarray) -> None:
        self.going, self.limits, self.ignore_end = self.going[rows], self.limits[rows], self.ignore_end[rows]
        self.rules, self.uniforms, self.batch = self.rules[rows], self.uniforms[rows], self.batch.of(rows)


def run_ahead(
    rows: Rows,
    slots: np.ndarray,
    lengths: np.ndarray,
    limits: np.ndarray,
    first: Candidates,
    wanted: np.ndarray,
    *,
    is_end: np.ndarray,
    forward: Callable[[Batch], Candidates],
    in_time: Callable[[], bool],
) -> Drawn:
    """Behind rows that reached their end. ``slots``, ``lengths`` (tokens cached), ``limits`` (0: does not run ahead) and
    ``wanted`` int64 [rows]; ``first`` has ``wanted`` positions of each row. ``is_end`` bool [vocabulary].

    A token is drawn from the candidates of the one before it, and kept only where it is computed: an end token never is, unless
    the row ignores it. ``in_time`` is asked before each pass.
    """
    going = np.flatnonzero(limits)
    ahead = _Ahead(rows, going, slots[going], lengths[going], limits[going])
    last = wanted.cumsum()[going] - 1
    ids, logits = first.candidate_id[last], first.candidate_logit[last]
    passes, owners, drawn = [first], [np.repeat(np.arange(len(rows)), wanted)], []
    for turn in range(ahead.uniforms.shape[1]):
        if not in_time():
            break
        tokens = sample(ids, logits, ahead.rules, ahead.uniforms[:, turn])
        stays = (ahead.limits > turn) & (ahead.ignore_end | ~is_end[tokens])
        if not stays.all():
            ahead.keep(stays)
            tokens = tokens[stays]
        if not len(tokens):
            break
        found = forward(ahead.batch._replace(tokens=tokens))
        ahead.batch = ahead.batch._replace(pasts=ahead.batch.pasts + 1)
        ids, logits = found.candidate_id, found.candidate_logit
        passes.append(found)
        owners.append(ahead.going)
        drawn.append(tokens)
    return _by_row(passes, owners, drawn, len(rows))


def _by_row(passes: list[Candidates], owners: list[np.ndarray], drawn: list[np.ndarray], rows: int) -> Drawn:
    """``owners``: of each pass the row of each position."""
    if not drawn:
        return Drawn(passes[0], np.zeros(0, np.int32), np.zeros(rows, np.int64))
    order = np.concatenate(owners).argsort(kind="stable")
    drawers = np.concatenate(owners[1:])
    candidates = Candidates(
        np.concatenate([one.candidate_id for one in passes])[order],
        np.concatenate([one.candidate_logit for one in passes])[order],
        np.concatenate([one.log_normalizer for one in passes])[order],
        passes[0].logits,
    )
    return Drawn(candidates, np.concatenate(drawn)[drawers.argsort(kind="stable")], np.bincount(drawers, minlength=rows))
