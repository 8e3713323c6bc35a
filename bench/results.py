"""bench/RESULTS.md: what was reached of what was aimed at, then all figures, then what each was given."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.report import Aim, Report, Table

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
    yield from ["", "## Aimed at, and reached", "", *table(_aims(report.aims))]
    yield from ["", "## The machine", "", *(f"- {name}: {value}" for name, value in machine.items())]
    yield f"- others' part of the machine: {_foreign(report)}"
    for one in report.tables:
        yield from ["", f"## {one.title}", "", *table(one), *(["", one.note] if one.note else [])]
    if plots:
        yield from ["", "## Plots", ""]
    for name, caption in plots:
        yield from [f"![{caption}]({folder}/{name})", ""]
    yield from ["", "## What each was given", "", *(f"- {name}: {given}" for name, given in report.given.items())]
    failed = [f"- {name}: {_one_line(message)}" for name, message in report.failures.items()]
    yield from ["", "## What failed", "", *(failed or ["Nothing."])]
    yield from ["", "## How long it took", "", *(f"- {name}: {seconds:.0f} s" for name, seconds in report.seconds.items())]


def table(one: Table) -> list[str]:
    separator = tuple("---" for _ in one.header)
    return ["| " + " | ".join(cells) + " |" for cells in (one.header, separator, *one.rows)]


def _aims(aims: Sequence[Aim]) -> Table:
    rows = [
        (aim.what, _figures(aim.aim, aim.at_most), _figures(aim.reached), "yes" if aim.met else "no", aim.remark)
        for aim in aims
    ]
    return Table("", ("what", "aim", "reached", "met", "remark"), tuple(rows))


def _figures(values: Sequence[float], at_most: bool = False) -> str:
    return ("≤ " if at_most else "") + " / ".join(f"{value:.0f}" if value >= 20 else f"{value:.3g}" for value in values)


def _foreign(report: Report) -> str:
    parts = [f"{step} {statistics.median(shares):.0%} (at most {max(shares):.0%})" for step, shares in report.foreign.items()]
    return ", ".join(parts) or "not measured"


def _one_line(message: str) -> str:
    return " ".join(message.split()).replace("|", "\\|")
