"""The sections of the plan, in order, and what they leave in the report."""

import datetime
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu_check import card, golden, models, peers, rates, report, trials
from bench.gpu_check import profile as profiles
from bench.gpu_check.plan import Section, Task
from bench.gpu_check.report import Bytes, Figures


def prepare(task: Task) -> None:
    task.save(date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}")
    device = card.device_of(task.device)
    task.save(machine=card.facts(task.device), bytes_per_second=card.bandwidth(device))
    print(json.dumps(task.found, indent=2), flush=True)
    _export(task, models.GPT2)


def _export(task: Task, title: str) -> None:
    made = models.prepare(title, task.out, small=task.quick)
    facts = {"directory": str(made.directory), "checkpoint": str(made.checkpoint)}
    task.save(models={title: facts | {"weight_bytes": made.weight_bytes, "kv_bytes": made.kv_bytes}})


def compare(task: Task, title: str) -> None:
    """The status is 1 where a comparison fails, or cannot be made."""
    model, found = models.prepared(task, title), list[dict[str, Any]]()
    with closing(peers.reference(task, model)) as engine:

        def reference(tokens: np.ndarray) -> np.ndarray:
            path = str((task.out / "reference.npy").resolve())
            engine.ask("logits", timeout=min(task.left(), 300), tokens=tokens.tolist(), path=path)
            logits: np.ndarray = np.load(path)
            return logits

        for check in golden.check(model.version / "model.onnx", reference, card.device_of(task.device)):
            found.append({"model": title, **asdict(check)})
            task.save(checks=found)
    print(report.checks(found), flush=True)
    if not all(check["passed"] for check in found):
        raise SystemExit(1)


def export_and_compare(task: Task, title: str) -> None:
    _export(task, title)
    compare(task, title)


def profile(task: Task) -> None:
    model = models.prepared(task, models.GPT2)
    counts = profiles.ROWS_QUICK if task.quick else profiles.ROWS
    found = []
    for one in profiles.profiles(
        model.version / "model.onnx", card.device_of(task.device), counts, task.peers_python, task.out
    ):
        print(one.line(), flush=True)
        found.append(asdict(one))
        task.save(steps=found)


def measure(task: Task, title: str) -> None:
    rates.measure(task, models.prepared(task, title))


def try_out(task: Task, name: str) -> None:
    """The status is 1 where a variant says something else."""
    model, device = models.prepared(task, models.GPT2).version / "model.onnx", card.device_of(task.device)
    found, left_out, took = list[trials.Trial](), list[str](), 0.4
    for rows in trials.ROWS_QUICK if task.quick else trials.ROWS:
        if task.left() < 5 * took:  # the next one has four to eight times the rows
            left_out.append(f"{rows} rows")
            print(f"left out: {rows} rows", flush=True)
            continue
        began = time.monotonic()
        found.append(trials.trial(trials.VARIANTS[name], model, device, rows))
        took = time.monotonic() - began
        print(found[-1].line(), flush=True)
        task.save(trials=[asdict(one) for one in found])
    task.save(left_out=left_out)
    if not all(one.same_tokens for one in found):
        raise SystemExit(1)


def run_ahead(task: Task) -> None:
    rates.run_ahead(task, models.prepared(task, models.GPT2))


SECTIONS = [
    Section("prepare", f"Versions, bandwidth, export of {models.GPT2}", 1, prepare),
    Section(
        "golden",
        f"{models.GPT2} on the device against transformers in fp32 on the CPU",
        0.75,
        partial(compare, title=models.GPT2),
    ),
    Section("profile", "A decode step's time in kernels and in gaps", 1, profile),
    Section("gpt-2", f"{models.GPT2}: tokens a second", 2.5, partial(measure, title=models.GPT2)),
    Section("smollm2-export", f"{models.SMOLLM2}: export, comparison", 1, partial(export_and_compare, title=models.SMOLLM2)),
    Section("smollm2", f"{models.SMOLLM2}: tokens a second", 1.5, partial(measure, title=models.SMOLLM2)),
    *(
        Section(name, f"Variant: {variant.title}", 0.4, partial(try_out, name=name))
        for name, variant in trials.VARIANTS.items()
    ),
    Section("run-ahead", "Variant: how long a step may draw by itself", 0.5, run_ahead),
]
RATES = {models.GPT2: "gpt-2", models.SMOLLM2: "smollm2"}
QUICK = [section for section in SECTIONS if not section.name.startswith("smollm2")]  # it has one model


def text(documents: Mapping[str, Any], statuses: Mapping[str, str], command: str, *, quick: bool) -> str:
    """Of whatever there is so far."""
    prepared = documents.get("prepare", {})
    parts = [f"`{command}`, {prepared.get('date', '')}"]
    parts.append("\n".join(f"- {name}: {status}" for name, status in statuses.items()))
    if bandwidth := prepared.get("bytes_per_second"):
        parts.append(f"A copy within the device's memory reads and writes {bandwidth / 1e9:,.0f} GB/s.")
    parts += [report.checks(documents.get(name, {}).get("checks", [])) for name in ("golden", "smollm2-export")]
    parts.append("\n".join(f"- {profiles.Profile(**one).line()}" for one in documents.get("profile", {}).get("steps", [])))
    past = rates.PROMPT + (rates.TOKENS_QUICK if quick else rates.TOKENS) / 2
    measured = []
    for title, name in RATES.items():
        if documents.get(name) and bandwidth:
            model = {**prepared.get("models", {}), **documents.get("smollm2-export", {}).get("models", {})}[title]
            read = Bytes(model["weight_bytes"], model["kv_bytes"], past, bandwidth)
            measured.append((title, Figures.of(documents[name]), read))
    parts += [report.table(*one) for one in measured]
    parts.append("\n".join(report.aims(measured)))
    for name, variant in trials.VARIANTS.items():
        lines = [f"- {trials.Trial(**one).line()}" for one in documents.get(name, {}).get("trials", [])]
        parts.append("\n".join([f"Variant: {variant.title}.", "", *lines] if lines else []))
    for budget, found in documents.get("run-ahead", {}).get("run_ahead", {}).items():
        each = ", ".join(f"{rate:,.0f} tokens/s at {streams} streams" for streams, rate in found.items())
        parts.append(f"RUN_AHEAD={budget}: {each}.")
    return "\n\n".join(part for part in parts if part)


def clear(out: Path) -> None:
    """Results of an earlier run are none of this one's."""
    for section in SECTIONS:
        (out / f"{section.name}.json").unlink(missing_ok=True)
