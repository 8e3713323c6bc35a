"""What a device did meanwhile: kernels and copies of a GPU, from CUPTI; the graph's nodes on a CPU, from ONNX Runtime.

On a GPU ONNX Runtime's own profile would show when kernels were launched, not how long they ran.
"""

import ctypes
import glob
import json
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

COPY, MEMSET, KERNEL = 1, 2, 10  # CUPTI_ACTIVITY_KIND_MEMCPY, MEMSET, CONCURRENT_KERNEL
START, END, NAME = 16, 24, 104  # bytes into a record of these kinds; the name only of a kernel (CUPTI 12 and 13)
NO_MORE = 12  # CUPTI_ERROR_MAX_LIMIT_REACHED
BUFFER = 4 << 20  # bytes
REQUESTED = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
COMPLETED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class Interval(NamedTuple):
    name: str
    start: float  # seconds
    end: float


class CuptiError(Exception):
    """CUPTI is missing or refuses."""


class Cupti:
    """Records what the GPU does for this process. One at a time."""

    def __init__(self, library: str) -> None:
        try:
            self._cupti = ctypes.CDLL(library)
        except OSError as error:
            raise CuptiError(str(error)) from error
        self._found: list[Interval] = []
        self._buffers: list[Any] = []
        self._callbacks = REQUESTED(self._request), COMPLETED(self._complete)  # kept: CUPTI has only their addresses
        self._call("cuptiActivityRegisterCallbacks", *self._callbacks)

    def record(self, work: Callable[[], object]) -> list[Interval]:
        """``work`` returns when the GPU has finished."""
        kinds = COPY, MEMSET, KERNEL
        self._found = []
        for kind in kinds:
            self._call("cuptiActivityEnable", kind)
        work()
        self._call("cuptiActivityFlushAll", 1)
        for kind in kinds:
            self._call("cuptiActivityDisable", kind)
        return self._found

    def _call(self, function: str, *arguments: object) -> None:
        if status := getattr(self._cupti, function)(*arguments):
            raise CuptiError(f"{function} answers {status}")

    def _request(self, buffer: Any, size: Any, records: Any) -> None:
        self._buffers.append((ctypes.c_uint64 * (BUFFER // 8))())  # aligned to 8 bytes
        buffer[0], size[0], records[0] = ctypes.addressof(self._buffers[-1]), BUFFER, 0

    def _complete(self, context: Any, stream: int, buffer: int, size: int, valid: int) -> None:
        record = ctypes.c_void_p(None)
        following = self._cupti.cuptiActivityGetNextRecord
        while (status := following(ctypes.c_void_p(buffer), ctypes.c_size_t(valid), ctypes.byref(record))) == 0:
            self._found.append(_interval(record.value or 0))
        if status != NO_MORE:
            self._found.append(Interval(f"cuptiActivityGetNextRecord answers {status}", 0, 0))


def _interval(record: int) -> Interval:
    kind = ctypes.c_uint32.from_address(record).value
    start, end = (ctypes.c_uint64.from_address(record + offset).value / 1e9 for offset in (START, END))
    if kind != KERNEL:
        return Interval("copy" if kind == COPY else "memset", start, end)
    return Interval((ctypes.c_char_p.from_address(record + NAME).value or b"").decode(errors="replace"), start, end)


def cupti(peers_python: str) -> Cupti:
    """From wherever it is: CuptiError where it is nowhere, or in no state to record."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = subprocess.run([peers_python, "-I", "-c", where], capture_output=True, text=True).stdout.strip()
    patterns = [f"{packages}/nvidia/**/libcupti.so.*" for packages in (sysconfig.get_path("purelib"), theirs)]
    patterns += ["/usr/local/cuda*/**/libcupti.so.*"]
    libraries = ["libcupti.so.13", *(path for pattern in patterns for path in glob.glob(pattern, recursive=True))]
    reasons = []
    for library in libraries:
        try:
            return Cupti(library)
        except CuptiError as error:
            reasons.append(str(error))
    raise CuptiError("; ".join(dict.fromkeys(reasons)))


def nodes(profile: Path, skipped: int) -> Iterator[Interval]:
    """Of a profile of ONNX Runtime, after the first ``skipped`` runs."""
    events = json.loads(profile.read_text())
    runs = [event["ts"] for event in events if event.get("name") == "model_run"]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= sorted(runs)[skipped]:
            yield Interval(event["args"]["op_name"], event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6)


def busy(intervals: Iterable[Interval]) -> float:
    """Seconds in which at least one of them goes on."""
    total, until = 0.0, float("-inf")
    for _, start, end in sorted(intervals, key=lambda one: one.start):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
