"""What a process takes, from /proc."""

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")  # a second's


def cpu_seconds(pid: int) -> float:
    """Of all its threads, in user and in kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> dict[str, int]:
    """Bytes by kind: `Rss`, resident; `Pss`, where shared pages are divided among their owners; … OSError: it ended."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields}
