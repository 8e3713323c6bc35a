"""Checks and measures the whole stack on this machine's GPU: `make gpu-check`.

    python -m bench.gpu_check [--device cpu] [--quick] [--minutes 10] [--out DIRECTORY] [--peers-python PYTHON]

Works through a plan of minutes and says what is left of them. Each section runs in a process of its own: what fails or takes
too long is reported, and the rest goes on. `gpu-check.json` and `gpu-check.md` are written after each section, each section's
own document after each measurement, so that a run that is cut off still has them. Ends with status 1 if a comparison or another
section failed; figures below the aims are reported, and are no failure. `--device cpu --quick` tries out all but the GPU.

Nothing here needs torch: the peers, and the reference that the decoder is compared with, run in `--peers-python`.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.gpu_check import card, sections
from bench.gpu_check.plan import Plan, Section, Task, documents, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few tokens, one round")
    parser.add_argument("--out", type=Path, default=Path(".run/gpu-check"))
    parser.add_argument("--minutes", type=_minutes, default=float("inf"), help="for all of it (default: no limit)")
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PYTHON",
        help="an interpreter with torch and transformers (default: this one)",
    )
    parser.add_argument("--section", choices=[one.name for one in sections.SECTIONS], help="only this one, in this process")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for that section")
    arguments = parser.parse_args()
    out = arguments.out / ("quick" if arguments.quick else "whole")
    out.mkdir(parents=True, exist_ok=True)
    task = Task(arguments.device, arguments.quick, out, arguments.peers_python)
    if arguments.section:
        deadline, document = time.monotonic() + arguments.seconds, out / f"{arguments.section}.json"
        section = next(one for one in sections.SECTIONS if one.name == arguments.section)
        section.run(replace(task, deadline=deadline, document=document))
    else:
        card.check(arguments.device)  # not device_of: that would hold memory of the card all the time
        sys.exit(0 if run(task, arguments.minutes) else 1)


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"is {text}, must be more than 0")
    return value


def run(task: Task, minutes: float) -> bool:
    command = " ".join(["python -m bench.gpu_check", *sys.argv[1:]])
    planned = sections.QUICK if task.quick else sections.SECTIONS
    statuses: dict[str, str] = {}

    def finished(section: Section, status: str) -> None:
        statuses[section.name] = status
        found = documents(task.out, planned)
        write(task.out / "gpu-check.json", json.dumps({"command": command, "sections": statuses, **found}, indent=2))
        write(task.out / "gpu-check.md", sections.text(found, statuses, command, quick=task.quick))

    def section_command(section: Section, seconds: float) -> list[str]:
        own = ["--section", section.name, "--seconds", str(seconds), "--out", str(task.out.parent)]
        options = ["--device", task.device, "--peers-python", task.peers_python, *["--quick"] * task.quick]
        return [sys.executable, "-m", "bench.gpu_check", *own, *options]

    sections.clear(task.out)
    well = Plan(planned, section_command, finished, minutes).run()
    print(f"\n{(task.out / 'gpu-check.md').read_text()}\nWritten to {task.out}/gpu-check.json and gpu-check.md", flush=True)
    return well


if __name__ == "__main__":
    main()
