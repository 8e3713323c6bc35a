"""Rotary positions as Hugging Face configurations tell them.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 writes `rope_parameters`, some families one for each type
of layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np

from export.checkpoint import CheckpointError, Rotary, shown
from export.checkpoints.rotary import base_frequencies, llama3, with_frequencies, yarn, yarn_scale
from export.checkpoints.settings import demand, real, whole

Settings = Mapping[str, Any]
Scaled = tuple[np.ndarray, float, int]  # frequencies, scale of cosine and sine, positions for which both are right
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Rope:
    rotary: Rotary
    turned: int  # rows of a head that have positions
    context_length: int


def of_all_layers(config: Settings, head_dim: int, *, partial: bool = False) -> Rope:
    """``partial``: the family may turn only a part of each head. ``config`` says `rope_theta`, if only by default."""
    given = _object(config, "rope_scaling") or _object(config, "rope_parameters")
    return _read(config, given, head_dim, config["rope_theta"], partial)


def of_layer_type(config: Settings, head_dim: int, layer_type: str) -> Rope:
    """For Gemma 3 and OLMo 3. `rope_scaling` applies to the layers without a window."""
    given = _object(_object(config, "rope_parameters"), layer_type)
    theta = config["rope_theta"]
    if layer_type == FULL:
        given = {**given, **_object(config, "rope_scaling")}
    else:
        theta = config.get("rope_local_base_freq") or theta
    return _read(config, given, head_dim, theta, partial=False)


def _object(settings: Settings, key: str) -> dict[str, Any]:
    entry = settings.get(key) or {}
    if not isinstance(entry, dict):
        raise CheckpointError(f"its configuration says {key} = {shown(entry)}, expected is an object or null")
    return entry


def _read(config: Settings, given: Settings, head_dim: int, theta: Any, partial: bool) -> Rope:
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in SCALINGS:
        served = ", ".join(key for key in SCALINGS if key != "su")
        raise CheckpointError(
            f"its configuration says rope_type = {shown(kind)}, which is not implemented; served are {served}"
        )
    if any(key in given for key in (FULL, SLIDING)):
        raise CheckpointError("its configuration has rope_parameters for each type of layer, which its model type has not")
    turned = _turned(config, given, head_dim, partial)
    theta = real({"rope_theta": theta} if given.get("rope_theta") is None else given, "rope_theta", 10000.0)
    if theta <= 1:
        raise CheckpointError(f"its configuration says rope_theta = {theta}, allowed are numbers above 1")
    with np.errstate(all="ignore"):
        exact = base_frequencies(turned, theta)
        frequencies, scale, context_length = SCALINGS[kind](exact, config, {**given, "rope_theta": theta})
    if not np.isfinite(frequencies).all():
        raise CheckpointError(f"its configuration's {kind} scaling of positions gives numbers that are not finite")
    return Rope(with_frequencies(frequencies, head_dim, scale), turned, context_length)


def _turned(config: Settings, given: Settings, head_dim: int, partial: bool) -> int:
    share = given.get("partial_rotary_factor")
    share = config.get("partial_rotary_factor") if share is None else share
    if not partial:
        demand({"partial_rotary_factor": share}, "partial_rotary_factor", 1, None)
        return head_dim
    turned = int(head_dim * real({"partial_rotary_factor": share}, "partial_rotary_factor", 1.0))
    if not 2 <= turned <= head_dim or turned % 2:
        raise CheckpointError(
            f"its configuration says partial_rotary_factor = {shown(share)}, which turns {turned} of a head's {head_dim} rows: "
            "served is an even number of at least 2"
        )
    return turned


def _plain(frequencies: np.ndarray, config: Settings, given: Settings) -> Scaled:
    """Also covers `dynamic` scaling, which changes nothing up to max_position_embeddings; longer contexts are not served."""
    return frequencies, 1.0, whole(config, "max_position_embeddings")


def _linear(frequencies: np.ndarray, config: Settings, given: Settings) -> Scaled:
    return frequencies / np.float32(real(given, "factor", 0.0)), 1.0, whole(config, "max_position_embeddings")


def _llama3(frequencies: np.ndarray, config: Settings, given: Settings) -> Scaled:
    low, high = real(given, "low_freq_factor", 0.0), real(given, "high_freq_factor", 0.0)
    if low >= high:
        allowed = f"allowed are numbers above its low_freq_factor {low}"
        raise CheckpointError(f"its configuration says high_freq_factor = {high}, {allowed}")
    factor, original = real(given, "factor", 0.0), _original(config, given)
    scaled = llama3(frequencies, factor=factor, low=low, high=high, original=original)
    return scaled, 1.0, whole(config, "max_position_embeddings")


def _yarn(frequencies: np.ndarray, config: Settings, given: Settings) -> Scaled:
    if "short_factor" in given:
        return _longrope(frequencies, config, given)  # which early Phi-3s call so
    context, original = whole(config, "max_position_embeddings"), _original(config, given)
    factor = real(given, "factor", context / original)
    if given.get("mscale") and given.get("mscale_all_dim"):
        scale = _mscale(factor, given, "mscale") / _mscale(factor, given, "mscale_all_dim")
    else:
        scale = yarn_scale(factor)
    scaled = yarn(
        frequencies,
        theta=given["rope_theta"],
        factor=factor,
        original=original,
        fast=real(given, "beta_fast", 32.0),
        slow=real(given, "beta_slow", 1.0),
        truncate=given.get("truncate") is not False,
    )
    return scaled, real(given, "attention_factor", scale), context


def _mscale(factor: float, given: Settings, key: str) -> float:
    return 0.1 * real(given, key, 1.0) * log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(frequencies: np.ndarray, config: Settings, given: Settings) -> Scaled:
    """LongRoPE (Ding et al. 2024) has other frequencies for texts beyond the original context. A text's cached keys would all
    change there, so it is served within that context."""
    original = _original(config, given)
    factor = real(given, "factor", whole(config, "max_position_embeddings") / original)
    scale = sqrt(1 + log(factor) / log(original)) if factor > 1 and original > 1 else 1.0
    shares = given.get("short_factor")
    if not isinstance(shares, list) or len(shares) != len(frequencies):
        raise CheckpointError(f"its configuration says short_factor = {shown(shares)}, expected are {len(frequencies)} numbers")
    divisors = np.array([real({"short_factor": share}, "short_factor", 0.0) for share in shares], np.float32)
    context = min(original, whole(config, "max_position_embeddings"))
    return frequencies / divisors, real(given, "attention_factor", scale), context


def _original(config: Settings, given: Settings) -> int:
    """The positions the model was trained for before scaling."""
    key = "original_max_position_embeddings"
    return whole(config if config.get(key) is not None else given, key, default=whole(config, "max_position_embeddings"))


SCALINGS: dict[str, Callable[[np.ndarray, Settings, Settings], Scaled]] = {
    "default": _plain,
    "dynamic": _plain,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
