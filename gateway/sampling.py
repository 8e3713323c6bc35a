"""From logits to tokens, vectorised over rows. Knows neither HTTP nor Triton.

Order of the rules: logit bias, penalties, temperature, top-k, top-p, min-p. Randomness is counter-based: a uniform number is a
function of (seed, position) only, so a sequence's text depends neither on its neighbours nor on retries.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.generation import SamplingParameters

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


def candidates_of(
    logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int], allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens that may be chosen after bias and penalties, most probable first: ids and logits, each [m].

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
    if parameters.temperature == 0:
        ids = np.array([changed.argmax()])
    elif 0 < parameters.top_k < len(changed):
        ids = np.argpartition(-changed, parameters.top_k - 1)[: parameters.top_k]
    else:
        ids = np.arange(len(changed))
    ids = ids[np.argsort(-changed[ids], kind="stable")]
    return ids.astype(np.int32), changed[ids]


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
