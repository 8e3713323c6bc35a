"""Resources of the machine or container, whichever has less: free memory, the number of slots that fit, and cores."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

AUTO = "auto"
MOST_SLOTS = {"cpu": 32, "cuda": 256}  # when chosen automatically
# Share of the free memory to use when chosen automatically. On a CPU the rest is for other programs, on a GPU for activations.
SHARE = {"cpu": 1 / 2, "cuda": 3 / 4}
ROOM_INTERVAL = 1.0  # seconds between checks of the free memory
KEPT_MEMORY = 64 * 2**20  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
HUGE_PAGE = 2 << 20  # bytes
MADV_COLLAPSE = 25  # of madvise(2), since Linux 6.1
CGROUP = Path("/sys/fs/cgroup")  # in a container: its own cgroup


def choose_slots(asked: str, slot_bytes: int, free: int, device: str = "cpu") -> int:
    """Returns the number of slots. ``asked`` is a number, or AUTO for as many as fit into a share of the ``free`` bytes, at
    most 32 on the CPU and 256 on a GPU.

    Raises ValueError with a full sentence if the requested slots, or a single one, do not fit.
    """
    if asked == AUTO:
        usable = int(free * SHARE[device])
        slots = min(MOST_SLOTS[device], usable // slot_bytes)
        if slots < 1:
            raise ValueError(
                f"one slot takes {_gib(slot_bytes)} GiB, {SHARE[device]:.0%} of the free memory is {_gib(usable)} GiB: "
                "export with a smaller --context-length, or free some memory"
            )
        return slots
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"slots: is {asked!r}, must be 'auto' or a number from 1 on")
    slots = int(asked)
    if slots * slot_bytes > free:
        raise ValueError(
            f"{slots} slots take {_gib(slots * slot_bytes)} GiB, {_gib(free)} GiB of memory are free: "
            f"ask for at most {max(free // slot_bytes, 0)} slots, or export with a smaller --context-length"
        )
    return slots


def room_for_tokens(token_bytes: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], int]:
    """Returns a function that tells how many more tokens a cache on the CPU may hold: as many as fit into a share of the memory
    that is free now, because other models and programs use memory too."""
    seen, room = -ROOM_INTERVAL, 0

    def look() -> int:
        nonlocal seen, room
        if clock() - seen >= ROOM_INTERVAL:
            seen, room = clock(), int(free_memory() * SHARE["cpu"] / token_bytes)
        return room

    return look


def usable_cores() -> int:
    """The number of cores that this process may use, bounded by its cgroup's CPU quota: with more threads than that, the kernel
    would throttle them in the middle of a step."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def keep_freed_memory() -> None:
    """Lets malloc keep up to 64 MiB of freed memory: in a step with many rows, mapping memory again takes longer than filling
    it. Needs glibc."""
    libc = ctypes.CDLL(None)
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        libc.mallopt(option, KEPT_MEMORY)


def use_huge_pages() -> None:
    """Moves the memory allocated so far (weights and cache) into 2 MiB pages. A pass reads all weights, and with 4 KiB pages it
    waits for address translation. Takes about a second per GiB. Does nothing if the system does not support it."""
    libc = ctypes.CDLL(None)
    for begin, end in _allocated():
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_COLLAPSE)


def _allocated() -> Iterator[tuple[int, int]]:
    """Yields the address ranges of anonymous memory, rounded inwards to whole huge pages."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, _, *name = line.split()
        begin, end = (int(address, 16) for address in addresses.split("-"))
        begin, end = -(-begin // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
        if permissions.startswith("rw") and begin < end and (not name or name == ["[heap]"]):
            yield begin, end


def free_memory() -> int:
    """Bytes that can still be allocated: MemAvailable, bounded by what is left of the cgroup's limit. Cached files, including
    the model's own, count as free there too: the kernel drops them when memory is needed."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        free = min(free, limit - used + _cached_files())
    return max(free, 0)


def _cgroup(name: str) -> int | None:
    try:
        text = (CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _cached_files() -> int:
    """Bytes of the cgroup's page cache that were not used recently. kubelet and `docker stats` subtract them too."""
    try:
        fields = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("inactive_file", 0))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
