"""What the machine or the container gives, whichever is less: free memory, and with it slots; cores."""

import os
from pathlib import Path

MOST_SLOTS = {"cpu": 32, "cuda": 256}  # of an automatic choice
# Of the free memory, in an automatic choice. On a CPU others work too; on a GPU the rest is for what a step computes.
SHARE = {"cpu": 1 / 2, "cuda": 3 / 4}
CGROUP = Path("/sys/fs/cgroup")  # of a container: its own


def choose_slots(asked: str, slot_bytes: int, free: int, device: str = "cpu") -> int:
    """The number of slots for ``asked``: a number, or "auto" for as many as a share of the ``free`` bytes holds, at most 32 on
    the CPU and 256 on a GPU.

    Raises ValueError with a sentence where the asked slots, or a single one, do not fit.
    """
    if asked == "auto":
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


def usable_cores() -> int:
    """Those that this process may run on, bounded by the time that its cgroup may take of them: more threads would be stopped
    in the middle of a step."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def free_memory() -> int:
    """Bytes that can still be allocated: MemAvailable, bounded by what is left of the cgroup's limit. Files that were read are
    no loss there either, the model's own among them: the kernel drops them when memory is asked for."""
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
    """Bytes of the cgroup's page cache that were not used lately: what kubelet and `docker stats` take off too."""
    try:
        fields = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("inactive_file", 0))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
