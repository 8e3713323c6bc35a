"""Samples tokens from candidates, vectorised over rows. Both sides use it, so the gateway and a run-ahead draw the same tokens.

Randomness is counter-based: a uniform number is a function of (seed, position) only, so a sequence does not depend on its
neighbours or on retries.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np

GAMMA = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: SplitMix64's increment


class SamplingRule(Protocol):
    """The attributes that `Rules.of` reads from a row."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...


class DrawingRule(NamedTuple):
    """How a row draws tokens when it runs ahead. Its candidates must include every token that may be drawn."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int  # 64 bits


class Rules:
    """Sampling rules of a batch of rows, prepared so that `sample` skips steps that no row needs."""

    __slots__ = ("_table", "divisor", "filters", "kept", "min_p", "top_p", "unlike", "widest")

    def __init__(self, table: np.ndarray) -> None:
        """``table`` float64 [rows, 4]: temperature, top_k, top_p, min_p."""
        self._table = table
        temperature, top_k, top_p, min_p = table.T
        sampled = temperature > 0
        self.divisor = np.where(sampled, temperature, 1.0)[:, None]
        # Number of candidates that may be drawn: 1 for a greedy row.
        self.kept = np.where(sampled, np.where(top_k > 0, top_k, np.inf), 1.0)[:, None]
        widest = self.kept.max(initial=1.0)
        self.widest = None if np.isinf(widest) else int(widest)
        self.unlike = bool(self.kept.min(initial=np.inf) < widest)
        self.filters = bool(top_p.min(initial=1.0) < 1 or min_p.max(initial=0.0) > 0)
        self.top_p, self.min_p = np.where(top_p < 1, top_p, np.inf)[:, None], min_p[:, None]

    @classmethod
    def of(cls, rows: Sequence[SamplingRule]) -> "Rules":
        numbers = chain.from_iterable((row.temperature, row.top_k, row.top_p, row.min_p) for row in rows)
        return cls(np.fromiter(numbers, np.float64, 4 * len(rows)).reshape(-1, 4))

    def __getitem__(self, rows: np.ndarray | slice) -> "Rules":
        """Returns the rules of the given rows."""
        return Rules(self._table[rows])


def sample(candidate_id: np.ndarray, candidate_logit: np.ndarray, rules: Rules, uniform: np.ndarray) -> np.ndarray:
    """Samples one token per row: int32 [rows].

    ``candidate_id``, ``candidate_logit`` [rows, k], most probable first; ``uniform`` [rows], in [0, 1). Uses inverse transform
    sampling over the kept candidates, in order. Exact if the candidates include every token that may be drawn. A row's token
    does not depend on the other rows.
    """
    if rules.widest == 1:
        return candidate_id[:, 0]
    logit = candidate_logit[:, : rules.widest]
    with np.errstate(over="ignore"):  # a tiny temperature: −inf is right, the weight is 0
        weight = np.exp((logit - logit[:, :1]) / rules.divisor, dtype=np.float64)
    if rules.unlike:
        weight[np.arange(weight.shape[1]) >= rules.kept] = 0.0
    cumulative = weight.cumsum(axis=1)
    if rules.filters:
        # Top-p keeps the smallest set whose share reaches top_p: a candidate stays while those before it have a lower share.
        # The first one always stays. Weights are relative to the first one's, so min-p compares them directly.
        kept = (cumulative - weight < rules.top_p * cumulative[:, -1:]) & (weight >= rules.min_p)
        kept[:, 0] = True
        cumulative = np.where(kept, weight, 0.0).cumsum(axis=1)
    chosen = (cumulative > uniform[:, None] * cumulative[:, -1:]).argmax(axis=1)
    return candidate_id[np.arange(len(chosen)), chosen]


def uniforms(seed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Returns numbers in [0, 1) for 64-bit seeds and positions, broadcast: SplitMix64 at that position of the seed's stream.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014). The seed is mixed first so that
    neighbouring seeds have unrelated streams.
    """
    state = _mix(seed.astype(np.uint64)) + (position.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
