"""Checks and measures the whole stack on this machine's GPU: `make gpu-check`.

    python -m bench.gpu_check [--device cpu] [--quick] [--out DIRECTORY]

Exports two models in fp16, compares what the decoder says on the device with transformers in fp32 on the CPU, then measures, in
rounds, so that what disturbs hits all alike: the whole stack through HTTP, the decoder alone, and what people use now. Prints
tables and writes `gpu-check.json` and `gpu-check.md`. Ends with status 1 where a comparison failed; figures below the aims are
reported, and are no failure. `--device cpu --quick` tries out everything but the GPU.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from backends.onnx_decoder.device import Device
from bench import servers
from bench.gpu_check import card, golden, models, peers, report, serving
from bench.gpu_check.models import Candidate
from bench.gpu_check.report import ALONE, OURS, Figures

PREFILLED = 512  # tokens of a prompt
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few tokens, one round")
    parser.add_argument("--out", type=Path, default=Path(".run/gpu-check"))
    arguments = parser.parse_args()
    device = card.device_of(arguments.device)
    streams, tokens, rounds = ([1, 4], 8, 1) if arguments.quick else ([1, 8, 64, 256], 128, 3)
    out = arguments.out / ("quick" if arguments.quick else "whole")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "command": " ".join(["python -m bench.gpu_check", *sys.argv[1:]]),
    }
    results |= {"machine": card.facts(arguments.device), "bytes_per_second": card.bandwidth(arguments.device)}
    say(json.dumps(results, indent=2))

    checks, measured = [], []
    for model in models.prepare(out, small=arguments.quick):
        say(f"## {model.title}: comparing with transformers in fp32")
        checks += list(golden.check(model, device))
        say(report.checks(checks[-len(golden.ARRANGEMENTS) - 2 :]))
        measured.append((model, measure(model, device, streams, tokens, rounds)))
    past = peers.PROMPT + tokens / 2
    text = "\n\n".join(
        [
            f"`{results['command']}`, {results['date']}, {results['bytes_per_second'] / 1e9:,.0f} GB/s copied and read",
            report.checks(checks),
            *(report.table(model, figures, past, results["bytes_per_second"]) for model, figures in measured),
            "\n".join(report.aims(measured, past, results["bytes_per_second"])),
        ]
    )
    results |= {"checks": [vars(one) for one in checks], "models": {model.title: one.as_json() for model, one in measured}}
    (out / "gpu-check.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / "gpu-check.md").write_text(text + "\n")
    say(f"{text}\n\nWritten to {out}/gpu-check.json and gpu-check.md")
    sys.exit(0 if all(one.passed for one in checks) else 1)


def measure(model: Candidate, device: Device, streams: list[int], tokens: int, rounds: int) -> Figures:
    figures = Figures()
    loops = {ALONE: peers.decoder_alone(model, device)}
    for name, prepare in peers.loops(model, device.name):
        if loop := attempt(figures, name, prepare):
            loops[name] = loop
    settings = {"MAX_WAITING": "1024"}
    with servers.gateways(model.directory, settings, slots=max(streams), TIDEGATE_DEVICE=device.name) as (server,):
        serving.decode(server, max(streams), 4)  # the first steps of a shape are slower
        for number in range(rounds):
            for count in streams:
                say(f"{model.title}: round {number + 1} of {rounds}, {count} streams")
                served = serving.decode(server, count, tokens)
                figures.rates[count][OURS].append(served.rate)
                figures.gaps[count].append((served.gap(50), served.gap(95)))
                figures.gateway[count].append(served.gateway_seconds / served.tokens)
                for name, loop in loops.items():
                    if rate := attempt(figures, name, partial(loop, count, tokens)):
                        figures.rates[count][name].append(rate)
            filled = serving.prefill(server, min(8, max(streams)), PREFILLED)
            figures.prefill.append(filled.streams * PREFILLED / filled.seconds)
    return figures


def attempt(figures: Figures, name: str, work: Callable[[], Result]) -> Result | None:
    """A peer that fails is named, once, and the others go on."""
    if name in figures.failures:
        return None
    try:
        return work()
    except Exception as error:  # whatever a peer raises
        figures.failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
        say(f"{name} failed: {figures.failures[name]}")
        return None


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
