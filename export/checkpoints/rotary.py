"""Rotary positions: the frequency of each pair, frequency scaling, and the head layout that the graph requires.

In the graph, a pair is rows j and j + head_dim / 2 of a head ("half-split"). Files may pair adjacent rows (0 and 1, 2 and 3,
…), or rotate only the first rows of a head.
"""

from math import ceil, floor, log, pi

import numpy as np

from export.checkpoint import CheckpointError, Rotary

HEAD_LIMIT = 4096  # far above any supported model: more means a broken or hostile file


def rotary(head_dim: int, theta: float, *, turned: int | None = None, backwards: bool = False) -> Rotary:
    """``turned``: how many rows of a head are rotated; the rest are not. Computed in fp32, as in training."""
    frequencies = base_frequencies(turned or head_dim, theta)
    return with_frequencies(-frequencies if backwards else frequencies, head_dim)


def base_frequencies(turned: int, theta: float) -> np.ndarray:
    """θ^(−2j / d), fp32 [turned / 2]."""
    exponents = np.arange(0, turned, 2, dtype=np.float32) / np.float32(turned)
    return np.asarray(np.float32(1) / np.float32(theta) ** exponents, np.float32)


def with_frequencies(frequencies: np.ndarray, head_dim: int, scale: float = 1.0) -> Rotary:
    """Pairs after the rotated ones get frequency 0."""
    if head_dim > HEAD_LIMIT:
        raise CheckpointError(f"its head size is {head_dim}, allowed with rotary positions are 2 to {HEAD_LIMIT}")
    still = head_dim // 2 - len(frequencies)
    return Rotary((*np.asarray(frequencies, np.float32).tolist(), *[0.0] * still), scale)


def llama3(frequencies: np.ndarray, *, factor: float, low: float, high: float, original: int) -> np.ndarray:
    """Llama 3.1's scaling: wavelengths above original / low are slowed down by ``factor``, those below original / high are
    unchanged, and those in between are blended."""
    exact = frequencies.astype(np.float64)
    turns = original * exact / (2 * pi)  # within the original context
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(exact * (blend + (1 - blend) / factor), np.float32)


def yarn(
    frequencies: np.ndarray,
    *,
    theta: float,
    factor: float,
    original: int,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> np.ndarray:
    """YaRN's "NTK by parts" (Peng et al. 2023): a ramp over the pairs. Those that turn more than ``fast`` times within the
    original context are unchanged; those that turn less than ``slow`` times are slowed down by ``factor``."""
    exact, turned = frequencies.astype(np.float64), 2 * len(frequencies)

    def pair(turns: float) -> float:
        return turned * log(original / (turns * 2 * pi)) / (2 * log(theta))

    first, last = (floor(pair(fast)), ceil(pair(slow))) if truncate else (pair(fast), pair(slow))
    first, last = max(first, 0), min(last, turned - 1)
    ramp = np.clip((np.arange(len(exact)) - first) / max(last - first, 0.001), 0, 1)
    return np.asarray(exact / factor * ramp + exact * (1 - ramp), np.float32)


def yarn_scale(factor: float) -> float:
    """The scale of cosine and sine if the configuration does not specify one."""
    return 0.1 * log(factor) + 1.0 if factor > 1 else 1.0


def half_split(weight: np.ndarray, heads: int, *, turned: int | None = None, neighbours: bool = False) -> np.ndarray:
    """Reorders the rows of ``weight`` [heads · head_dim, …] (or a bias) into the graph's layout. ``turned``: as in `rotary`;
    ``neighbours``: pairs are adjacent in the file."""
    head_dim = len(weight) // heads
    turned = head_dim if turned is None else turned
    pairs, rest = np.arange(turned // 2), np.arange(turned, head_dim)
    first, second = (2 * pairs, 2 * pairs + 1) if neighbours else (pairs, pairs + turned // 2)
    middle = len(rest) // 2
    places = np.concatenate([first, rest[:middle], second, rest[middle:]])
    return weight.reshape(heads, head_dim, *weight.shape[1:])[:, places].reshape(weight.shape)
