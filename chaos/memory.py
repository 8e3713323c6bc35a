"""What processes hold, sampled, and whether it grows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

MIB = 2**20


@dataclass(frozen=True)
class Sample:
    at: float  # seconds since the beginning
    rss: float  # MiB
    pss: float  # MiB: what it shares is divided among those that share it
    open_files: int
    threads: int


def sample(pid: int, at: float) -> Sample:
    """Raises psutil.NoSuchProcess where the process has ended."""
    process = psutil.Process(pid)
    held = process.memory_full_info()
    return Sample(at, held.rss / MIB, held.pss / MIB, process.num_fds(), process.num_threads())


@dataclass(frozen=True)
class Growth:
    """A line through the second half of the samples, by least squares: the first half is warm-up."""

    slope: float  # MiB a minute
    error: float  # of the slope, MiB a minute: its standard error, as if the samples were independent
    first: float  # MiB: the mean of the half's first quarter
    last: float  # MiB: the mean of its last quarter

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Growth":
        """There must be at least 8 samples."""
        half = samples[len(samples) // 2 :]
        minutes = np.array([one.at / 60 for one in half])
        sizes = np.array([one.pss for one in half])
        (slope, _), covariance = np.polyfit(minutes, sizes, 1, cov=True)
        quarter = max(1, len(half) // 4)
        return cls(float(slope), float(covariance[0, 0] ** 0.5), float(sizes[:quarter].mean()), float(sizes[-quarter:].mean()))
