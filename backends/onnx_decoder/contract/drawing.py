"""From candidates to tokens, vectorised over rows. Both sides use it, so the gateway draws what a run-ahead has drawn.

Randomness is counter-based: a uniform number is a function of (seed, position) only, so a sequence's text depends neither on
its neighbours nor on retries.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

GAMMA = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: SplitMix64's increment


class SamplingRule(Protocol):
    """What `Rules.of` reads of a row."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...


class DrawingRule(NamedTuple):
    """How a row that runs ahead draws its tokens. Its candidates must hold every token that may be drawn."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int  # 64 bits


class Rules:
    """Sampling rules of several rows, prepared for `sample`: what no row needs is left out there."""

    __slots__ = ("_table", "divisor", "filters", "kept", "min_p", "top_p", "unlike", "widest")

    def __init__(self, table: np.ndarray) -> None:
        """``table`` float64 [rows, 4]: temperature, top_k, top_p, min_p."""
        self._table = table
        temperature, top_k, top_p, min_p = table.T
        sampled = temperature > 0
        self.divisor = np.where(sampled, temperature, 1.0)[:, None]
        # Candidates that may be drawn: 1 of a greedy row.
        self.kept = np.where(sampled, np.where(top_k > 0, top_k, np.inf), 1.0)[:, None]
        widest = self.kept.max(initial=1.0)
        self.widest = None if np.isinf(widest) else int(widest)
        self.unlike = bool(self.kept.min(initial=np.inf) < widest)
        self.filters = bool(top_p.min(initial=1.0) < 1 or min_p.max(initial=0.0) > 0)
        self.top_p, self.min_p = np.where(top_p < 1, top_p, np.inf)[:, None], min_p[:, None]

    @classmethod
    def of(cls, rows: Sequence[SamplingRule]) -> "Rules":
        table = [(row.temperature, row.top_k, row.top_p, row.min_p) for row in rows]
        return cls(np.array(table, np.float64).reshape(-1, 4))

    def __getitem__(self, rows: np.ndarray | slice) -> "Rules":
        """Those of some of the rows."""
        return Rules(self._table[rows])


def sample(candidate_id: np.ndarray, candidate_logit: np.ndarray, rules: Rules, uniform: np.ndarray) -> np.ndarray:
    """Chooses one token a row: int32 [rows].

    ``candidate_id``, ``candidate_logit`` [rows, k], most probable first; ``uniform`` [rows], in [0, 1). Exact where the
    candidates hold every token that may be chosen. Inverse transform sampling over the kept candidates in their order. A row's
    token does not depend on the other rows.
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
        # Top-p keeps the smallest set whose share reaches top_p: a candidate stays while the share of those before it is below.
        # The first one always stays. Weights are relative to the first one's, so min-p compares them directly.
        kept = (cumulative - weight < rules.top_p * cumulative[:, -1:]) & (weight >= rules.min_p)
        kept[:, 0] = True
        cumulative = np.where(kept, weight, 0.0).cumsum(axis=1)
    chosen = (cumulative > uniform[:, None] * cumulative[:, -1:]).argmax(axis=1)
    return candidate_id[np.arange(len(chosen)), chosen]


def uniforms(seed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) for 64-bit seeds and positions, broadcast: SplitMix64 at a position of the seed's stream.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014). The seed is mixed first so that
    neighbouring seeds have unrelated streams.
    """
    state = _mix(seed.astype(np.uint64)) + (position.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
