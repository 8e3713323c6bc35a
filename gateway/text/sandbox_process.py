"""The process behind gateway/text/sandbox.py: `python sandbox_process.py`, spoken to over its pipes in lines of JSON.

First in: ``[module, setup, seconds, memory, nice]``; then a question a line. Out: an answer a line. A question that takes more
than its processor time ends the process: no Python code could stop one long operation. So does one that takes too much memory
in a library that cannot go on without.
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
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of processor time; without a handler its signal kills
        answered = json.dumps(answer(json.loads(line)))  # in ASCII: half of a surrogate pair can be sent too
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answered, flush=True)


def _heap() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="utf-8") as status:
        found = re.search(r"VmData:\s+(\d+) kB", status.read())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
