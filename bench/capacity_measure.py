"""Measures the costs that bench/capacity.py reckons with, on this machine, in about two minutes.

    python -m bench.capacity_measure model_repository/smollm2-135m-instruct-q4_1

The forward pass: the backend's decoder alone, for several numbers of rows and lengths of their past. The gateway: what its
process spends (user and system time) on one long stream, on many at once, and on requests for a single token; a tiny model runs
behind it, since its own cost does not depend on the model.
"""

import argparse
import asyncio
import json
import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row
from bench.capacity import MEASURED, GatewayCost, StepCost
from bench.streams import Streams
from chaos.stack import Gateway, running_stack, tiny_repository

ROWS = (1, 2, 4, 8, 16, 32)
PASTS = (16, 128, 448)  # tokens
CHUNKS = (32, 64, 128, 256)  # tokens of a prefill
ROUNDS = 8
SLOTS = 32
CONTEXT = 512


def fitted(features: list[list[float]], seconds: list[float]) -> list[float]:
    """Least squares of the relative errors, so that short steps count as much as long ones; no cost is negative."""
    matrix, target = np.array(features), np.array(seconds)
    matrix /= target[:, None]
    free = list(range(matrix.shape[1]))
    while True:  # the largest violation goes first
        costs = np.linalg.lstsq(matrix[:, free], np.ones(len(target)), rcond=None)[0]
        if costs.min() >= 0:
            break
        free.pop(int(costs.argmin()))
    return [float(costs[free.index(place)]) if place in free else 0.0 for place in range(matrix.shape[1])]


def fastest(batches: list[list[Row]], decoder: Decoder) -> list[float]:
    """Seconds of each batch's fastest run: what else happens on the machine only adds to it. Rounds over all of them, so that
    whatever lasts for a while does not hit one alone."""
    best = [math.inf] * len(batches)
    for _ in range(ROUNDS):
        for place, batch in enumerate(batches):
            start = time.perf_counter()
            decoder.run(batch)
            best[place] = min(best[place], time.perf_counter() - start)
    return best


def newest_version(model: Path) -> Path:
    return max(model.glob("[1-9]*"), key=lambda directory: int(directory.name))


def step_cost(model: Path) -> tuple[StepCost, float]:
    """And the mean of the fit's relative errors."""
    decoder = Decoder(newest_version(model) / "model.onnx", slots=SLOTS, context_length=CONTEXT)
    points = [(rows, past) for past in PASTS for rows in ROWS]
    decodes = [[Row(slot, past, np.zeros(1, np.int32)) for slot in range(rows)] for rows, past in points]
    prefills = [[Row(0, 0, np.zeros(tokens, np.int32))] for tokens in CHUNKS]
    seconds = fastest([*decodes, *prefills], decoder)
    of_decodes, of_prefills = seconds[: len(points)], seconds[len(points) :]
    fixed, per_row, per_row_past = fitted([[1.0, rows, rows * past] for rows, past in points], of_decodes)
    prefill_fixed, prefill_per_token = fitted([[1.0, tokens] for tokens in CHUNKS], of_prefills)
    cost = StepCost(fixed, per_row, per_row_past, prefill_fixed, prefill_per_token)
    told = [cost.decode(rows, past) for rows, past in points] + [cost.prefill(tokens) for tokens in CHUNKS]
    for (rows, past), second in zip(points, of_decodes, strict=True):
        print(f"{rows} rows, past {past}: {second * 1000:.1f} ms, by the fit {cost.decode(rows, past) * 1000:.1f}")
    return cost, float(np.mean([abs(guess / second - 1) for guess, second in zip(told, seconds, strict=True)]))


def process_seconds(pid: int) -> float:
    """Of all its threads, in user and in kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def spent(gateway: Gateway, streams: int, tokens: int, rounds: int = 1) -> float:
    """Seconds of the gateway's process a round, for so many streams at once."""
    before = process_seconds(gateway.pid)
    for _ in range(rounds):
        told = await Streams(gateway.url, streams, tokens).run()
        if told.complete != streams:
            raise SystemExit(f"{streams - told.complete} of {streams} streams did not end in full: {dict(told.failures)}")
    return (process_seconds(gateway.pid) - before) / rounds


async def gateway_cost(repository: Path, run_dir: Path) -> GatewayCost:
    async with running_stack(repository, run_dir, tritons=1, spares=0, gateways=1, slots=SLOTS, SPECULATION="off") as stack:
        gateway, tokens = stack.gateways[0], 500
        await spent(gateway, SLOTS, 20)
        alone = await spent(gateway, 1, tokens, rounds=4) / tokens  # = per_step + per_token
        crowd = await spent(gateway, SLOTS, tokens, rounds=2) / (SLOTS * tokens)  # = per_step / SLOTS + per_token
        brief = await spent(gateway, SLOTS, 1, rounds=40) / SLOTS  # = per_request + per_token + per_step / SLOTS
        per_step = max(0.0, (alone - crowd) / (1 - 1 / SLOTS))
        per_token = max(0.0, alone - per_step)
        return GatewayCost(per_step, per_token, max(0.0, brief - crowd))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity_measure", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="a model directory that `make export` wrote")
    parser.add_argument("--repository", type=Path, help="a model repository with a tiny-gpt2 (default: made here)")
    parser.add_argument("--json", type=Path, default=MEASURED, help="where the figures go (default: %(default)s)")
    options = parser.parse_args()
    step, error = step_cost(options.model)
    with tempfile.TemporaryDirectory(prefix="tidegate-capacity-") as run_dir:
        gateway = asyncio.run(gateway_cost(options.repository or tiny_repository(), Path(run_dir)))
    card = json.loads((newest_version(options.model) / "model_card.json").read_text())["parameters"]
    about = {
        "model": options.model.name,
        "precision": card["precision"],
        "cores": os.cpu_count(),
        "mean error of the fit": f"{error:.0%}",
    }
    options.json.write_text(json.dumps({"about": about, "step": asdict(step), "gateway": asdict(gateway)}, indent=2) + "\n")
    print(options.json.read_text())


if __name__ == "__main__":
    main()
