"""`make chaos`, `python -m chaos --seed 1 --minutes 12`: ends with 0 only where nothing was lost and no text was wrong."""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from pathlib import Path

from chaos.document import DOCUMENT, write_figures
from chaos.report import table
from chaos.run import run
from chaos.schedule import Plan
from chaos.tiny import RUN, tiny_repository

REPORT = RUN / "chaos.json"


def main() -> None:
    arguments = parse()
    if arguments.report:
        write_figures(arguments.report)
        return
    seconds = arguments.minutes * 60
    counts = {name: getattr(arguments, name) for name in COUNTS if getattr(arguments, name) is not None}
    plan = Plan(seed=arguments.seed, seconds=seconds, streams=arguments.streams, **counts)
    repository = arguments.repository or tiny_repository()
    changed = [f"--{name.replace('_', '-')} {count}" for name, count in counts.items()]
    command = " ".join([f"python -m chaos --seed {plan.seed} --minutes {arguments.minutes:g}", *changed])
    with tempfile.TemporaryDirectory(prefix="tidegate-chaos-") as run_dir:
        directory = arguments.logs or Path(run_dir)
        report = asyncio.run(run(plan, repository, directory, lambda line: print(line, flush=True), command))
    report.write(arguments.json)
    print(f"\n{table(dataclasses.asdict(report))}\n")
    for example in report.examples:
        print(example)
    for what, count in (report.refusals | report.errors).items():
        print(f"{count:6}  {what}")
    print(f"\n{'PASSED' if report.good else 'FAILED'}; the figures are in {arguments.json}")
    sys.exit(0 if report.good else 1)


COUNTS = ("kills", "stub_kills", "stalls", "swaps", "drains", "disconnects", "delivery_faults")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--minutes", type=float, default=12, help="over which the faults are spread")
    parser.add_argument("--streams", type=int, default=32, help="requests at a time")
    for name in COUNTS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"(default: {getattr(Plan(), name)})")
    parser.add_argument("--repository", type=Path, help="a model repository with a tiny-gpt2 (default: made here)")
    parser.add_argument("--logs", type=Path, help="keep the logs of Tritons and gateways in this directory")
    parser.add_argument("--json", type=Path, default=REPORT, help="where the figures go")
    said = f"write the figures of the last runs into this document ({DOCUMENT.name}) and do nothing else"
    parser.add_argument("--report", type=Path, nargs="?", const=DOCUMENT, help=said)
    return parser.parse_args()


if __name__ == "__main__":
    main()
