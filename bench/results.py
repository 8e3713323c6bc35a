"""bench/RESULTS.md: what was reached of what was aimed at, then all figures, then what each was given."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.report import Report, aims_table

COMMAND = "make bench"


def write(report: Report, machine: dict[str, str], plots: Sequence[tuple[str, str]], target: Path, images: Path) -> None:
    folder = os.path.relpath(images, target.parent)
    target.write_text("\n".join(lines(report, machine, plots, folder)) + "\n", encoding="utf-8")


def lines(report: Report, machine: dict[str, str], plots: Sequence[tuple[str, str]], folder: str) -> Iterable[str]:
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.began))
    command = COMMAND + (" QUICK=1" if report.quick else "")
    yield from ["# Side by side, on one machine", ""]
    yield f"`{command}` wrote this file on {began}; it took {sum(report.seconds.values()) / 60:.0f} minutes."
    yield "SmolLM2-135M-Instruct, the same weights for all; each engine and server in turn, round after round, medians."
    if report.quick:
        yield "A quick run: fewer peers, rounds and streams, shorter texts. Its figures show that it works, and little more."
    aims = aims_table(report.aims)
    yield from ["", f"## {aims.title}", "", *aims.lines()]
    yield from ["", "## The machine", "", *(f"- {name}: {value}" for name, value in machine.items())]
    yield f"- others' part of the machine: {_foreign(report)}"
    for one in report.tables:
        yield from ["", f"## {one.title}", "", *one.lines(), *(["", one.note] if one.note else [])]
    if plots:
        yield from ["", "## Plots", ""]
    for name, caption in plots:
        yield from [f"![{caption}]({folder}/{name})", ""]
    yield from ["", "## What each was given", "", *(f"- {name}: {given}" for name, given in report.given.items())]
    failed = [f"- {name}: {_one_line(message)}" for name, message in report.failures.items()]
    yield from ["", "## What failed", "", *(failed or ["Nothing."])]
    yield from ["", "## How long it took", "", *(f"- {name}: {seconds:.0f} s" for name, seconds in report.seconds.items())]


def _foreign(report: Report) -> str:
    parts = [f"{step} {statistics.median(shares):.0%} (at most {max(shares):.0%})" for step, shares in report.foreign.items()]
    return ", ".join(parts) or "not measured"


def _one_line(message: str) -> str:
    return " ".join(message.split()).replace("|", "\\|")
