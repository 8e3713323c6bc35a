"""Samples tokens from whole rows of logits. If a row's candidates suffice, the wire contract's own `sample` is used instead.

Order of the rules: logit bias, penalties, temperature, top-k, top-p, min-p. Knows neither HTTP nor Triton.
"""

from collections import Counter

import numpy as np

from backends.onnx_decoder.contract.drawing import Rules, sample
from gateway.engine.generation import SamplingParameters

WEIGHTS = (1e-2, 1e-3, 1e-5)  # thresholds relative to the most probable token: most draws hit the few above the first
MARGIN = 1 + 1e-9  # for rounding, when sums are taken in another order


def changes_logits(parameters: SamplingParameters) -> bool:
    """Whether bias or penalties may change which tokens are the k most probable."""
    penalties = parameters.presence_penalty or parameters.frequency_penalty or parameters.repetition_penalty != 1
    return bool(penalties or parameters.logit_bias)


def needs_full_logits(parameters: SamplingParameters, k: int) -> bool:
    """Whether the rules could select a token that is not among the k most probable."""
    return changes_logits(parameters) or (parameters.temperature > 0 and not 0 < parameters.top_k <= k)


def changed_logits(
    logits: np.ndarray, parameters: SamplingParameters, generated: Counter[int], allowed: np.ndarray | None = None
) -> np.ndarray:
    """A whole row after bias and penalties: float64 [vocabulary], −inf for tokens that are not allowed.

    ``logits`` [vocabulary]; ``generated``: how often each token was generated so far; ``allowed``: bool [vocabulary] with at
    least one True, or None for all. The formulas are in `SamplingParameters`.
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
    """Draws one token per ``uniform`` from one whole row, float64 [vocabulary]; returns int32 [draws]. Same rules as `sample`.

    Only the most probable tokens are sorted, as many as the draws need. One row at a time stays in the CPU's cache: for 24 rows
    of 49,152 tokens this took a quarter of the time of all at once.
    """
    temperature, top_k, top_p, min_p = parameters.temperature, parameters.top_k, parameters.top_p, parameters.min_p
    if temperature == 0:
        return np.full(len(uniform), logits.argmax(), np.int32)
    if 0 < top_k < len(logits):
        ids = _most_probable(logits, top_k)
        rules = Rules.of([parameters] * len(uniform))
        return sample(np.tile(ids, (len(uniform), 1)), np.tile(logits[ids], (len(uniform), 1)), rules, uniform)
    with np.errstate(over="ignore"):  # with a tiny temperature, −inf is correct and gives weight 0
        weight = np.exp((logits - logits.max()) / temperature)
    total = weight.sum()
    ids = _holding(total * (top_p if top_p < 1 else uniform.max()), weight)
    ids = ids[np.argsort(-weight[ids], kind="stable")]
    # As in `sample`, a prefix of this order is kept. Without top-p, it may extend beyond the sorted tokens.
    cumulative = weight[ids].cumsum()
    kept = (cumulative - weight[ids] < top_p * total) & (weight[ids] >= min_p)
    kept[0] = True
    last = kept.sum() - 1
    kept_total = cumulative[last] if top_p < 1 else weight[weight >= min_p].sum()
    chosen = np.minimum(np.searchsorted(cumulative, uniform * kept_total, side="right"), last)
    return ids[chosen].astype(np.int32)


def _most_probable(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the ``count`` most probable tokens, most probable first; ties go to the lower id."""
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]


def _holding(mass: float, weight: np.ndarray) -> np.ndarray:
    """The ids of the heaviest tokens that together weigh at least ``mass``; each weight is at most 1."""
    for floor in WEIGHTS:
        ids = np.flatnonzero(weight >= floor)
        if weight[ids].sum() > mass * MARGIN:
            return ids
    return np.flatnonzero(weight)
