"""When two ways of computing the same logits must agree, and how exactly."""

from pathlib import Path

import numpy as np

# onnxruntime's kernels for these do not all add up in the same order for every number of rows: where they run, logits may
# differ in their last bits with the rows that are computed together, and quantised activations turn that into more.
WIDER_VECTORS = "avx512f" in Path("/proc/cpuinfo").read_text()


def assert_same(one: np.ndarray, other: np.ndarray) -> None:
    """To the last bit, but with wider vectors only within a part of the logits' spread."""
    assert one.shape == other.shape
    if WIDER_VECTORS:
        assert np.abs(one - other).max() < 0.3 * other.std()
    else:
        np.testing.assert_array_equal(one, other)
