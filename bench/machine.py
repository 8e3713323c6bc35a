"""The machine that was measured on: what it is, how fast its memory is, and how much of it others took."""

import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")
ARRAY = 1 << 29  # bytes, far beyond any cache
IDLE_LOOK, IDLE_SHARE = 0.3, 0.2  # seconds; of a core


def described() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(part.split(":", 1) for part in lines if ":" in part)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    features = [feature for feature in FEATURES if feature in named.get("flags", "").split()]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": f"{named.get('model name', platform.processor())} ({', '.join(features)})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
    }


def read_bandwidth(threads: int, rounds: int = 5) -> float:
    """Bytes a second that all threads together read of an array larger than the caches: the best of some rounds."""
    parts = np.split(np.ones(ARRAY // 8, np.float64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(np.max, parts))  # numpy lets go of its lock, and vector instructions keep up with memory
            best = max(best, ARRAY / (time.perf_counter() - start))
    return best


@dataclass
class Foreign:
    share: float = 0.0  # of all cores, that processes not begun by the bench took


@contextmanager
def watched() -> Iterator[Foreign]:
    foreign, busy, own, start = Foreign(), _busy(), _own(), time.monotonic()
    yield foreign
    cores = (time.monotonic() - start) * (os.cpu_count() or 1)
    foreign.share = max(0.0, (_busy() - busy) - (_own() - own)) / max(cores, 1e-9)


def wait_idle(limit: float) -> bool:
    """Returns once what the bench began does next to nothing: a server may go on with texts that nobody waits for any more.
    False where that has not come after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = _own()
        time.sleep(IDLE_LOOK)
        if _own() - before < IDLE_SHARE * IDLE_LOOK:
            return True
    return False


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _own() -> float:
    """Of this process and all that it began, and of those of theirs that have ended."""
    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)
