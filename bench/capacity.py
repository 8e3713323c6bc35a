"""The costs that docs/scaling.md calculates with, measured on this machine in about two minutes, and what follows from them.

    python -m bench.capacity model_repository/smollm2-135m-instruct-q4_1

The forward pass: the backend's decoder alone, for several numbers of rows and lengths of their past. The gateway: what
its process spends on one long stream, on many at once, and on requests for a single token; a tiny model runs behind it, since
its own cost does not depend on the model.

Units: seconds, tokens. A *row* is a stream's part of a step, its *past* the tokens that are cached by then.
"""

import argparse
import asyncio
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row
from bench import servers
from bench.driver import together
from bench.servers import SLOTS, Server
from bench.tiny import tiny_model
from testing.proc import cpu_seconds

ROWS = (1, 2, 4, 8, 16, 32)
PASTS = (16, 128, 448)  # tokens
CHUNKS = (32, 64, 128, 256)  # tokens of a prefill
PREFILL_CHUNK = 256  # prompt tokens a step: the gateway's setting
ROUNDS = 8
CONTEXT = 512
WORKLOAD = "200 tokens of a prompt, 150 of an answer, 30 s of thinking"
PROMPT, ANSWER, THINKING = 200, 150, 30.0


@dataclass(frozen=True)
class StepCost:
    """Seconds of the forward pass, by least squares over measured steps."""

    fixed: float  # a: reading the weights; paid once, however many rows take part
    per_row: float  # b: matrix work of one token
    per_row_past: float  # c: attention of one row to one cached token
    prefill_fixed: float  # of a chunk of a prompt, which runs alone
    prefill_per_token: float

    def decode(self, rows: float, past: float) -> float:
        """A step in which every row computes one token: a + b·rows + c·rows·past."""
        return self.fixed + self.per_row * rows + self.per_row_past * rows * past

    def prefill(self, tokens: float) -> float:
        """All chunks of one prompt: fixed·chunks + per_token·tokens."""
        return self.prefill_fixed * math.ceil(tokens / PREFILL_CHUNK) + self.prefill_per_token * tokens


@dataclass(frozen=True)
class GatewayCost:
    """Seconds of one core. A gateway is one process whose loop uses one core."""

    per_step: float  # one gRPC message, one call of numpy for all rows
    per_token: float  # sampling, text, one server-sent event
    per_request: float  # HTTP, JSON, tokenizing, the first and the last event


def pace(step: StepCost, gateway: GatewayCost, rows: float, prompt: float = PROMPT, answer: float = ANSWER) -> float:
    """Seconds between two tokens of a stream while ``rows`` streams run on one Triton behind one gateway: the step, the
    gateway's work between two steps, and a share of the prefills, of which each stream brings one an answer."""
    between = gateway.per_step + gateway.per_token * rows + rows / answer * gateway.per_request
    return step.decode(rows, prompt + answer / 2) + between + rows / answer * step.prefill(prompt)


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
    return [float(costs[free.index(column)]) if column in free else 0.0 for column in range(matrix.shape[1])]


def fastest(batches: list[list[Row]], decoder: Decoder) -> list[float]:
    """Seconds of each batch's fastest run: what else happens on the machine only adds to it. Rounds over all of them, so that
    whatever lasts for a while does not hit one alone."""
    best = [math.inf] * len(batches)
    for _ in range(ROUNDS):
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            decoder.run(batch)
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def step_cost(model: Path) -> tuple[StepCost, float]:
    """And the mean of the fit's relative errors."""
    decoder = Decoder(model, slots=SLOTS, context_length=CONTEXT)
    points = [(rows, past) for past in PASTS for rows in ROWS]
    decodes = [[Row(slot, past, np.zeros(1, np.int32)) for slot in range(rows)] for rows, past in points]
    prefills = [[Row(0, 0, np.zeros(tokens, np.int32))] for tokens in CHUNKS]
    seconds = fastest([*decodes, *prefills], decoder)
    fixed, per_row, per_row_past = fitted([[1.0, rows, rows * past] for rows, past in points], seconds[: len(points)])
    prefill_fixed, prefill_per_token = fitted([[1.0, tokens] for tokens in CHUNKS], seconds[len(points) :])
    cost = StepCost(fixed, per_row, per_row_past, prefill_fixed, prefill_per_token)
    estimates = [cost.decode(rows, past) for rows, past in points] + [cost.prefill(tokens) for tokens in CHUNKS]
    return cost, float(np.mean([abs(estimate / second - 1) for estimate, second in zip(estimates, seconds, strict=True)]))


def spent(server: Server, streams: int, tokens: int, rounds: int = 1) -> float:
    """Seconds of the gateway's process a round, for so many streams at once."""
    before = cpu_seconds(server.pid)
    for number in range(rounds):
        prompts = [f"Number {number * streams + stream}" for stream in range(streams)]
        asyncio.run(together(server, prompts, tokens))
    return (cpu_seconds(server.pid) - before) / rounds


def gateway_cost() -> GatewayCost:
    with servers.gateways(tiny_model(), {"SPECULATION": "off"}) as (server,):
        tokens = 500
        spent(server, SLOTS, 20)
        alone = spent(server, 1, tokens, rounds=4) / tokens  # = per_step + per_token
        crowd = spent(server, SLOTS, tokens, rounds=2) / (SLOTS * tokens)  # = per_step / SLOTS + per_token
        brief = spent(server, SLOTS, 1, rounds=40) / SLOTS  # = per_request + per_token + per_step / SLOTS
        per_step = max(0.0, (alone - crowd) / (1 - 1 / SLOTS))
        per_token = max(0.0, alone - per_step)
        return GatewayCost(per_step, per_token, max(0.0, brief - crowd))


def tables(step: StepCost, gateway: GatewayCost) -> str:
    """Markdown: the costs, and what one Triton behind one gateway does with them."""
    rows = {
        "a step, independent of its rows (*a*)": f"{step.fixed * 1000:.1f} ms",
        "each row in it (*b*)": f"{step.per_row * 1000:.2f} ms",
        "100 cached tokens of a row (100 · *c*)": f"{step.per_row_past * 100_000:.2f} ms",
        "a prompt chunk, and each token in it": f"{step.prefill_fixed * 1000:.1f} ms, {step.prefill_per_token * 1000:.2f} ms",
        "gateway CPU: a step (*per step*)": f"{gateway.per_step * 1000:.2f} ms",
        "gateway CPU: a streamed token (*per token*)": f"{gateway.per_token * 1000:.3f} ms",
        "gateway CPU: a request (*per request*)": f"{gateway.per_request * 1000:.1f} ms",
    }
    lines = ["| cost of | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    lines += ["", f"{WORKLOAD}:", "", "| streams | time between tokens, ms | tokens/s | answers/s | users |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for streams in ROWS:
        every = pace(step, gateway, streams)
        answers = streams / (ANSWER * every)  # Little's law: streams = answers a second · seconds of an answer
        users = answers * THINKING + streams
        lines.append(f"| {streams} | {every * 1000:.0f} | {streams / every:.0f} | {answers:.2f} | {users:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="a model directory that `make export` wrote")
    options = parser.parse_args()
    version = max(options.model.glob("[1-9]*"), key=lambda directory: int(directory.name))
    step, error = step_cost(version / "model.onnx")
    gateway = gateway_cost()
    precision = json.loads((version / "model_card.json").read_text())["parameters"]["precision"]
    print(f"{options.model.name}, {precision}, {os.cpu_count()} cores; mean error of the fit {error:.0%}.\n")
    print(tables(step, gateway))


if __name__ == "__main__":
    main()
