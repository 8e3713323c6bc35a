"""A process that renders one chat template, again and again: `python template_process.py`, spoken to over its pipes.

A template is a program that came with a checkpoint. Jinja's sandbox keeps it from files and from Python's insides, but not from
loops without end or texts that fill the memory: here it can do no harm with them. gateway/chat_template.py is the other side.

Lines of JSON. First in: ``[template, seconds, bytes]``, the bounds of one rendering; then ``{"messages": …,
"add_generation_prompt": …}`` for each. Out: ``{"text": …}``, ``{"refused": why}`` by the template, or ``{"failed": true}``.
A rendering that takes more than its processor time ends the process: no Python code could stop one long operation.
"""

import json
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import jinja2

if __name__ == "__main__":  # an isolated script does not have its own package on its path
    sys.path.append(str(Path(__file__).resolve().parent.parent))
from gateway.chat_environment import compile_template, render

LONGEST_REASON = 500  # characters
LONGEST_TEXT = 4 << 20  # characters: more than a body can hold
FAILED = {"failed": True}


def main() -> None:
    template, seconds, memory = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_heap() + memory,) * 2)
    compiled: jinja2.Template | None = None
    answer: dict[str, Any]
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of processor time; without a handler its signal kills
        try:
            compiled = compiled or compile_template(template)
            answer = {"text": render(compiled, json.loads(line))}
        except jinja2.TemplateError as exc:
            answer = {"refused": str(exc)[:LONGEST_REASON]}
        except Exception:  # also a MemoryError: the template may fail in any way
            answer = FAILED
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(_written(answer), flush=True)


def _written(answer: dict[str, Any]) -> str:
    """In ASCII: a message may hold half of a surrogate pair, which the tokenizer refuses by name."""
    if len(answer.get("text", "")) > LONGEST_TEXT:
        answer = FAILED
    return json.dumps(answer)


def _heap() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="utf-8") as status:
        found = re.search(r"VmData:\s+(\d+) kB", status.read())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
