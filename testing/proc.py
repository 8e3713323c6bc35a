"""What a process takes, and those that it has started. psutil.NoSuchProcess: it has ended."""

from contextlib import suppress

import psutil


def cpu_seconds(pid: int) -> float:
    """Of all its threads, in user and in kernel mode."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def family(pid: int) -> list[psutil.Process]:
    """The process and its children."""
    process = psutil.Process(pid)
    return [process, *process.children()]


def shared_once(pid: int) -> int:
    """Bytes that are resident, of the process and its children; what several share is divided among them (PSS)."""
    total = 0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total
