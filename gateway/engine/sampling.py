"""From whole rows of logits to tokens. Rows whose candidates are enough are drawn by the wire contract's own `sample`.

Order of the rules: logit bias, penalties, temperature, top-k, top-p, min-p. Knows neither HTTP nor Triton.
"""

from collections import Counter

import numpy as np

from backends.onnx_decoder.contract.drawing import Rules, sample
from gateway.engine.generation import SamplingParameters

WEIGHTS = (1e-2, 1e-3, 1e-5)  # of a token, against the most probable one's: most draws fall among the few above the first
MARGIN = 1 + 1e-9  # for sums in another order


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
