"""The process behind gateway/text/sandbox.py: `python sandbox_process.py`, which communicates over pipes in lines of JSON.

Input: first ``[module, setup, seconds, memory, nice]``, then one question per line. Output: one answer per line. A question
that exceeds its processor time ends the process, because Python code could not stop a single long operation. So does one that
exceeds its memory in a library that cannot recover from that.
"""

import importlib
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.insert(0, str(Path(__file__).parents[2]))
    module, setup, seconds, memory, nice = json.loads(sys.stdin.readline())
    os.nice(nice)
    answer = importlib.import_module(module).prepare(setup)
    resource.setrlimit(resource.RLIMIT_DATA, (_heap() + memory,) * 2)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of processor time; without a handler, the signal kills the process
        answered = json.dumps(answer(json.loads(line)))  # ASCII, so that lone surrogates can be sent too
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answered, flush=True)


def _heap() -> int:
    """Returns this process's bytes that count towards RLIMIT_DATA."""
    with open("/proc/self/status", encoding="utf-8") as status:
        found = re.search(r"VmData:\s+(\d+) kB", status.read())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
