"""The sections of the plan, in order, and what they leave in the report."""

import datetime
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import Engine
from bench.environments import PeerError
from bench.gpu_check import card, golden, models, peers, rates, report, trials
from bench.gpu_check import profile as profiles
from bench.gpu_check.plan import Section, Task
from bench.gpu_check.report import Bytes, Figures


def prepare(task: Task) -> None:
    task.save(date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}")
    device = card.device_of(task.device)
    task.save(machine=card.facts(task.device), bytes_per_second=card.bandwidth(device))
    print(json.dumps(task.found, indent=2), flush=True)
    made: dict[str, Any] = {}
    for one in models.prepare(task.out, small=task.quick):
        made[one.title] = {"directory": str(one.directory), "checkpoint": str(one.checkpoint)}
        made[one.title] |= {"weight_bytes": one.weight_bytes, "kv_bytes": one.kv_bytes}
        task.save(models=made)


def compare(task: Task) -> None:
    """The status is 1 where a comparison fails."""
    found: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    device = card.device_of(task.device)
    for model in models.prepared(task):
        try:
            with closing(peers.reference(task, model)) as engine:

                def reference(tokens: np.ndarray, engine: Engine = engine) -> np.ndarray:
                    path = str((task.out / "reference.npy").resolve())
                    engine.ask("logits", timeout=min(task.left(), 300), tokens=tokens.tolist(), path=path)
                    logits: np.ndarray = np.load(path)
                    return logits

                for check in golden.check(model.version / "model.onnx", reference, device):
                    found.append({"model": model.title, **asdict(check)})
                    task.save(checks=found)
        except PeerError as error:
            failures[model.title] = f"there is no reference: {error}"
            task.save(failures=failures)
    print(report.checks(found), *failures.values(), sep="\n", flush=True)
    if failures or not all(check["passed"] for check in found):
        raise SystemExit(1)


def profile(task: Task) -> None:
    model = models.prepared_one(task, models.GPT2)
    counts = profiles.ROWS_QUICK if task.quick else profiles.ROWS
    found = []
    for one in profiles.profiles(
        model.version / "model.onnx", card.device_of(task.device), counts, task.peers_python, task.out
    ):
        print(one.line(), flush=True)
        found.append(asdict(one))
        task.save(steps=found)


def measure(task: Task, title: str) -> None:
    rates.measure(task, models.prepared_one(task, title))


def try_out(task: Task, name: str) -> None:
    """The status is 1 where a variant says something else."""
    model, device = models.prepared_one(task, models.GPT2).version / "model.onnx", card.device_of(task.device)
    found: list[trials.Trial] = []
    for rows in trials.ROWS_QUICK if task.quick else trials.ROWS:
        if task.left() < 2:
            print(f"left out for want of time: {rows} rows", flush=True)
            continue
        found.append(trials.trial(trials.VARIANTS[name], model, device, rows))
        print(found[-1].line(), flush=True)
        task.save(trials=[asdict(one) for one in found])
    if not all(one.same_tokens for one in found):
        raise SystemExit(1)


def run_ahead(task: Task) -> None:
    rates.run_ahead(task, models.prepared_one(task, models.GPT2))


SECTIONS = [
    Section("prepare", "Versions, bandwidth, exports", 1, prepare),
    Section("golden", "The decoder on the device against transformers in fp32 on the CPU", 1, compare),
    Section("profile", "A decode step's time in kernels and in gaps", 1, profile),
    Section("gpt-2", f"{models.GPT2}: tokens a second", 2.5, partial(measure, title=models.GPT2)),
    Section("smollm2", f"{models.SMOLLM2}: tokens a second", 1.5, partial(measure, title=models.SMOLLM2)),
    *(
        Section(name, f"Variant: {variant.title}", 0.4, partial(try_out, name=name))
        for name, variant in trials.VARIANTS.items()
    ),
    Section("run-ahead", "Variant: how long a step may draw by itself", 0.5, run_ahead),
]
RATES = {models.GPT2: "gpt-2", models.SMOLLM2: "smollm2"}
QUICK = [section for section in SECTIONS if section.name != "smollm2"]  # it has one model


def text(documents: Mapping[str, Any], statuses: Mapping[str, str], command: str, *, quick: bool) -> str:
    """Of whatever there is so far."""
    prepared = documents.get("prepare", {})
    parts = [f"`{command}`, {prepared.get('date', '')}"]
    parts.append("\n".join(f"- {name}: {status}" for name, status in statuses.items()))
    if bandwidth := prepared.get("bytes_per_second"):
        parts.append(f"A copy within the device's memory reads and writes {bandwidth / 1e9:,.0f} GB/s.")
    parts.append(report.checks(documents.get("golden", {}).get("checks", [])))
    parts.append("\n".join(f"- {profiles.Profile(**one).line()}" for one in documents.get("profile", {}).get("steps", [])))
    past = rates.PROMPT + (rates.TOKENS_QUICK if quick else rates.TOKENS) / 2
    measured = []
    for title, name in RATES.items():
        if name in documents and bandwidth:
            model = prepared["models"][title]
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
