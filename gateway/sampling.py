"""From logits to tokens, vectorised over rows. Knows neither HTTP nor Triton.

Order of the rules: penalties, temperature, top-k, top-p. Randomness is counter-based: a uniform number is a function of (seed,
position) only, so a sequence's text depends neither on its neighbours nor on retries.
"""

from collections import Counter

import numpy as np

from gateway.generation import SamplingParameters

GAMMA = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: SplitMix64's increment


def sample(
    candidate_id: np.ndarray,
    candidate_logit: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    uniform: np.ndarray,
) -> np.ndarray:
    """Chooses one token a row: int32 [rows].

    ``candidate_id``, ``candidate_logit`` [rows, k], most probable first; the other arguments [rows]. Exact where the candidates
    hold every token that may be chosen: see `needs_full_logits`. Inverse transform sampling over the kept candidates in their
    order.
    """
    rank = np.arange(candidate_logit.shape[1])
    kept_by_k = np.where(top_k > 0, top_k, len(rank))[:, None]
    with np.errstate(over="ignore"):  # a tiny temperature: −inf is right, the weight is 0
        scaled = (candidate_logit - candidate_logit[:, :1]) / np.where(temperature > 0, temperature, 1.0)[:, None]
    weight = np.where(rank < kept_by_k, np.exp(scaled, dtype=np.float64), 0.0)
    cumulative = np.cumsum(weight, axis=1)
    # Top-p keeps the smallest set whose share reaches top_p: a candidate stays while the share of those before it is below. The
    # first one always stays, at a top_p of 0 too.
    before = cumulative - weight
    weight = np.where((before < top_p[:, None] * cumulative[:, -1:]) | (rank == 0), weight, 0.0)
    cumulative = np.cumsum(weight, axis=1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    chosen = np.where(temperature > 0, np.minimum(chosen, (weight > 0).sum(axis=1) - 1), 0)
    return candidate_id[np.arange(len(chosen)), chosen]


def needs_full_logits(parameters: SamplingParameters, k: int) -> bool:
    """Whether the k most probable tokens may miss one that the rules could choose."""
    if parameters.presence_penalty or parameters.frequency_penalty:
        return True  # a penalty may push candidates below, or lift tokens from below, the k-th
    return parameters.temperature > 0 and not 0 < parameters.top_k <= k


def candidates_of(logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens that may be chosen after penalties, most probable first: ids and logits, each [m].

    ``logits`` [vocabulary]; ``generated``: how often each token was generated so far. The penalties are OpenAI's:
    logit − frequency_penalty · count − presence_penalty · [count > 0].
    """
    penalised = logits.astype(np.float64)
    for token, count in generated.items():
        penalised[token] -= parameters.frequency_penalty * count + parameters.presence_penalty
    if parameters.temperature == 0:
        ids = np.array([penalised.argmax()])
    elif 0 < parameters.top_k < len(penalised):
        ids = np.argpartition(-penalised, parameters.top_k - 1)[: parameters.top_k]
    else:
        ids = np.arange(len(penalised))
    ids = ids[np.argsort(-penalised[ids], kind="stable")]
    return ids.astype(np.int32), penalised[ids]


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
