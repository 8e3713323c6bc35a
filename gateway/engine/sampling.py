"""From logits to tokens, vectorised over rows. Knows neither HTTP nor Triton.

Order of the rules: logit bias, penalties, temperature, top-k, top-p, min-p. Randomness is counter-based: a uniform number is a
function of (seed, position) only, so a sequence's text depends neither on its neighbours nor on retries.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.engine.generation import SamplingParameters

WEIGHTS = (1e-2, 1e-3, 1e-5)  # of a token, against the most probable one's: most draws fall among the few above the first
MARGIN = 1 + 1e-9  # for sums in another order
GAMMA = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: SplitMix64's increment


class Rules(NamedTuple):
    """Sampling rules of several rows, each [rows]; see `SamplingParameters`."""

    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[SamplingParameters]) -> "Rules":
        return cls(*np.array([(row.temperature, row.top_k, row.top_p, row.min_p) for row in rows], np.float64).T)

    def row(self, index: int) -> "Rules":
        return Rules(*(values[index : index + 1] for values in self))


def sample(
    candidate_id: np.ndarray,
    candidate_logit: np.ndarray,
    rules: Rules,
    uniform: np.ndarray,
) -> np.ndarray:
    """Chooses one token a row: int32 [rows].

    ``candidate_id``, ``candidate_logit`` [rows, k], most probable first; ``uniform`` [rows], in [0, 1). Exact where the
    candidates hold every token that may be chosen: see `needs_full_logits`. Inverse transform sampling over the kept candidates
    in their order.
    """
    temperature, top_k, top_p, min_p = rules
    rank = np.arange(candidate_logit.shape[1])
    kept_by_k = np.where(top_k > 0, top_k, len(rank))[:, None]
    with np.errstate(over="ignore"):  # a tiny temperature: −inf is right, the weight is 0
        scaled = (candidate_logit - candidate_logit[:, :1]) / np.where(temperature > 0, temperature, 1.0)[:, None]
    weight = np.where(rank < kept_by_k, np.exp(scaled, dtype=np.float64), 0.0)
    cumulative = np.cumsum(weight, axis=1)
    # Top-p keeps the smallest set whose share reaches top_p: a candidate stays while the share of those before it is below. The
    # first one always stays, at a top_p of 0 too. Weights are relative to the first one's, so min-p compares them directly.
    before = cumulative - weight
    kept = (before < top_p[:, None] * cumulative[:, -1:]) & (weight >= min_p[:, None])
    weight = np.where(kept | (rank == 0), weight, 0.0)
    cumulative = np.cumsum(weight, axis=1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    chosen = np.where(temperature > 0, np.minimum(chosen, (weight > 0).sum(axis=1) - 1), 0)
    return candidate_id[np.arange(len(chosen)), chosen]


def changes_logits(parameters: SamplingParameters) -> bool:
    """Whether bias or penalties may push candidates below the k-th, or lift tokens from below it."""
    penalties = parameters.presence_penalty or parameters.frequency_penalty or parameters.repetition_penalty != 1
    return bool(penalties or parameters.logit_bias)


def needs_full_logits(parameters: SamplingParameters, k: int) -> bool:
    """Whether the k most probable tokens may miss one that the rules could choose."""
    return changes_logits(parameters) or (parameters.temperature > 0 and not 0 < parameters.top_k <= k)


def changed_logits(
    logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int], allowed: np.ndarray | None = None
) -> np.ndarray:
    """A whole row after bias and penalties: float64 [vocabulary], −inf where a token is not allowed.

    ``logits`` [vocabulary]; ``generated``: how often each token was generated so far; ``allowed`` [vocabulary], bool: at least
    one token, None means all of them. The formulas are in `SamplingParameters`.
    """
    changed = logits.astype(np.float64)
    if allowed is not None:
        changed[~allowed] = -np.inf
    for token, bias in parameters.logit_bias.items():
        changed[token] += bias
    for token, count in generated.items() if changes_logits(parameters) else ():
        factor = parameters.repetition_penalty
        changed[token] = changed[token] / factor if changed[token] > 0 else changed[token] * factor
        changed[token] -= parameters.frequency_penalty * count + parameters.presence_penalty
    return changed


def sample_whole(logits: np.ndarray, parameters: SamplingParameters, uniform: np.ndarray) -> np.ndarray:
    """Chooses tokens from one whole row, float64 [vocabulary], a draw for each ``uniform``: int32 [draws]. As `sample`.

    The row is not sorted: only its most probable tokens are, as many as hold the draw. A row at a time stays in the processor's
    cache: for 24 rows of 49,152 tokens that took a quarter of the time of all at once.
    """
    temperature, top_k, top_p, min_p = parameters.temperature, parameters.top_k, parameters.top_p, parameters.min_p
    if temperature == 0:
        return np.full(len(uniform), logits.argmax(), np.int32)
    if 0 < top_k < len(logits):
        ids = _most_probable(logits, top_k)
        rules = Rules.of([parameters] * len(uniform))
        return sample(np.tile(ids, (len(uniform), 1)), np.tile(logits[ids], (len(uniform), 1)), rules, uniform)
    with np.errstate(over="ignore"):  # a tiny temperature: −inf is right, the weight is 0
        weight = np.exp((logits - logits.max()) / temperature)
    total = weight.sum()
    ids = _holding(total * (top_p if top_p < 1 else uniform.max()), weight)
    ids = ids[np.argsort(-weight[ids], kind="stable")]
    # What is kept is the beginning of this order, by the rules of `sample`; without top-p it may be longer than what is sorted.
    cumulative = weight[ids].cumsum()
    kept = (cumulative - weight[ids] < top_p * total) & (weight[ids] >= min_p)
    kept[0] = True
    last = kept.sum() - 1
    kept_total = cumulative[last] if top_p < 1 else weight[weight >= min_p].sum()
    chosen = np.minimum(np.searchsorted(cumulative, uniform * kept_total, side="right"), last)
    return ids[chosen].astype(np.int32)


def _most_probable(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of so many tokens, most probable first; of equal ones the first."""
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]


def _holding(mass: float, weight: np.ndarray) -> np.ndarray:
    """The ids of tokens that weigh more than all others, and ``mass`` or more together; weights are at most 1."""
    for floor in WEIGHTS:
        ids = np.flatnonzero(weight >= floor)
        if weight[ids].sum() > mass * MARGIN:
            return ids
    return np.flatnonzero(weight)


def uniforms(seed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) for 64-bit seeds and positions, each [rows]: SplitMix64 at a position of the seed's stream.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014). The seed is mixed first so that
    neighbouring seeds have unrelated streams.
    """
    state = _mix(seed.astype(np.uint64)) + (position.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
