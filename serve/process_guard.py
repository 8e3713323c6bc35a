"""Runs one command that cannot outlive its owner: `python process_guard.py SIGNAL GRACE SHM_PREFIX COMMAND...`

The owner holds the write end of this process's standard input. When that closes (because the owner stops the command or dies,
`kill -9` included), the guard sends the command SIGNAL, and SIGKILL after GRACE seconds. However the command ended, the guard
then kills and reaps the rest of its process group, and removes the files in /dev/shm whose names start with SHM_PREFIX (`-`:
none). Triton makes this necessary: a stub can survive its server, and shared memory survives both.

The first line on standard output is the command's process id; the exit status is the command's.
Standard library only, so that it starts in milliseconds.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(stop_signal: int, grace: float, shm_prefix: str, command: list[str]) -> int:
    # Adopt the command's orphans in order to reap them: not every process 1 does.
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # If even the guard is killed, the command dies with it.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, process_group=0, preexec_fn=_die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(stop_signal))
    print(child.pid, flush=True)
    select.select([sys.stdin, os.pidfd_open(child.pid)], [], [])
    if child.poll() is None:
        child.send_signal(stop_signal)
    try:
        status = child.wait(grace)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
    end_group(child.pid)
    remove_shared_memory(shm_prefix)
    return status if status >= 0 else 128 - status  # the shell's convention: 137 for SIGKILL


def end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
        while True:
            os.waitpid(-group, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def remove_shared_memory(prefix: str) -> None:
    if prefix != "-":
        for file in SHARED_MEMORY.glob(f"{prefix}*"):
            file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
