"""How many streams a Triton holds, how many gateways it takes, and what breaks first: the formulas of docs/scaling.md.

    python -m bench.capacity                                       # for the measured machine and the workloads below
    python -m bench.capacity --prompt 2000 --answer 300 --pace 0.1

Everything here follows from five costs that `python -m bench.capacity_measure` measures, and from Little's law: what is in a
system = what arrives a second × how many seconds it stays. `python -m bench.capacity_simulation` checks it.

Units: seconds, tokens, bytes. A *stream* is one text being written. A *row* is a stream's part of a step, its *past* the tokens
that are cached by then. The *pace* is the time between two tokens of one stream (TPOT).
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("capacity_measured.json")
CONNECTIONS = 2048  # that a gateway holds: MAXIMUM_CONNECTIONS of gateway/http/protocol.py
SPARE_POSITIONS = 8  # of a slot beyond the context: JOINED_TOKENS of backends/onnx_decoder/contract/limits.py
PREFILL_CHUNK = 256  # prompt tokens a step: the gateway's setting
BUSY = 0.7  # of a gateway's core at most: beyond it the wait for the core is longer than the work


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

    def cpu(self, steps: float, tokens: float, requests: float) -> float:
        """Cores used, where all three are a second's."""
        return self.per_step * steps + self.per_token * tokens + self.per_request * requests


@dataclass(frozen=True)
class Workload:
    prompt: float  # tokens that have to be computed, those found cached taken off
    answer: float  # tokens
    think: float = 0.0  # seconds from an answer's end to the same person's next question

    @property
    def past(self) -> float:
        """Of a row, averaged over its answer."""
        return self.prompt + self.answer / 2


def pace(step: StepCost, gateway: GatewayCost, work: Workload, rows: float, senders: int = 1) -> float:
    """Seconds between two tokens of a stream while ``rows`` streams run on one Triton, shared out among ``senders`` gateways.

    The forward passes of a round, plus a share of the prefills: each stream brings one prefill an answer, so rows / answer of
    them fall into every round. One gateway's steps wait for its own work in between. Of several, the steps that arrive during
    a pass are merged into the next: so there are two passes a round, each of half of the rows, and the fixed part of a step is
    paid twice. The gateways' work hides behind the other half's pass, unless it takes longer. A stream has one gateway: of few
    streams, no more send.
    """
    senders = senders_of(rows, senders)
    passes, each = min(2, senders), rows / senders  # each: streams of one gateway
    turn = step.decode(rows / passes, work.past)
    between = gateway.per_step + gateway.per_token * each + each / work.answer * gateway.per_request
    return max(passes * turn, turn + between) + rows / work.answer * step.prefill(work.prompt)


def senders_of(rows: float, senders: int) -> int:
    """Gateways that have a text on the Triton."""
    return max(1, min(senders, int(rows)))


def rate(step: StepCost, gateway: GatewayCost, work: Workload, rows: float, senders: int = 1) -> float:
    """Answers a second of one Triton with ``rows`` streams. Little's law for the slots: rows = rate × seconds in a slot, and a
    text is in its slot for answer × pace."""
    return rows / (work.answer * pace(step, gateway, work, rows, senders))


def rows_within(step: StepCost, gateway: GatewayCost, work: Workload, slots: int, longest_pace: float, senders: int = 1) -> int:
    """The most streams on one Triton that still get a token every ``longest_pace`` seconds; 0 where not even one does."""
    fast = (rows for rows in range(1, slots + 1) if pace(step, gateway, work, rows, senders) <= longest_pace)
    return max(fast, default=0)


def people(step: StepCost, gateway: GatewayCost, work: Workload, rows: float, senders: int = 1) -> float:
    """Who read, think and ask again, so that ``rows`` streams run. Little's law for all: rate × (answering + thinking)."""
    return rate(step, gateway, work, rows, senders) * work.think + rows


def gateways(gateway: GatewayCost, work: Workload, tritons: int, answers: float, streams: float, step_rate: float) -> int:
    """Gateways that ``answers`` a second take, all Tritons together: by their cores (``BUSY`` of each), by their connections,
    and two at least, so that one may stop.

    ``step_rate``: steps a second of one Triton. Every gateway with a text on a Triton sends it a message a step, so the more
    gateways there are, the more messages: cores = steps·gateways + tokens + requests.
    """
    shared = gateway.cpu(0, answers * work.answer, answers)
    own = gateway.per_step * step_rate * tritons  # of each gateway: what a gateway more does not share
    by_core = math.ceil(shared / (BUSY - own)) if own < BUSY else math.inf
    if by_core == math.inf:
        raise ValueError(f"{tritons} Tritons make more steps than a gateway can send: give each gateway fewer Tritons")
    return max(2, int(by_core), math.ceil(streams / CONNECTIONS))


def slot_bytes(layers: int, kv_heads: int, head_dim: int, context: int, element: int) -> int:
    """Memory of a slot: layers · kv_heads · head_dim · 2 (keys and values) · element bytes · positions. ``element``: 4 on the
    CPU (fp32), 2 on a GPU (fp16). The whole context is held from the start, so it does not grow."""
    return layers * kv_heads * head_dim * 2 * element * (context + SPARE_POSITIONS)


def slots_in(memory: int, weights: int, slot: int) -> int:
    """Slots in the ``memory`` of a device or a container, a tenth of which is left to everything else."""
    return max(0, int(memory * 0.9 - weights) // slot)


def step_bound(weights: int, rows: int, past: float, kv_bytes: int, bandwidth: float) -> float:
    """No step is faster than its bytes: (weights + rows · past · kv_bytes) / bandwidth. ``kv_bytes``: of one position of one
    sequence, slot_bytes / positions; ``bandwidth``: of the device's memory, bytes a second, from its data sheet. For GPUs,
    where no step has been measured."""
    return (weights + rows * past * kv_bytes) / bandwidth


@dataclass(frozen=True)
class Plan:
    """What one Triton does with ``rows`` streams."""

    rows: int
    pace: float  # seconds
    tokens_per_second: float
    answers_per_second: float
    people: float
    gateway_cores: float  # of all gateways together


def plan(step: StepCost, gateway: GatewayCost, work: Workload, rows: int, senders: int = 1) -> Plan:
    every, answers = pace(step, gateway, work, rows, senders), rate(step, gateway, work, rows, senders)
    cores = gateway.cpu(senders_of(rows, senders) / every, answers * work.answer, answers)
    return Plan(rows, every, answers * work.answer, answers, people(step, gateway, work, rows, senders), cores)


def measured(path: Path = MEASURED) -> tuple[StepCost, GatewayCost, dict[str, Any]]:
    """The costs of the machine and model that were measured, and what these are."""
    figures = json.loads(path.read_text())
    return StepCost(**figures["step"]), GatewayCost(**figures["gateway"]), figures["about"]


def table(step: StepCost, gateway: GatewayCost, work: Workload, slots: int, senders: int) -> str:
    """Markdown: a line for each number of streams."""
    lines = [
        "| streams | time between tokens, ms | tokens/s | answers/s | people | cores of the gateways |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rows in [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count <= slots]:
        told = plan(step, gateway, work, rows, senders)
        lines.append(
            f"| {rows} | {told.pace * 1000:.0f} | {told.tokens_per_second:.0f} | {told.answers_per_second:.2f} | "
            f"{told.people:.0f} | {told.gateway_cores:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompt", type=float, default=200, help="tokens of a prompt that are not cached")
    parser.add_argument("--answer", type=float, default=150, help="tokens of an answer")
    parser.add_argument("--think", type=float, default=30, help="seconds until the same person asks again")
    parser.add_argument("--pace", type=float, default=0.25, help="seconds that a token may take; people read 4 or 5 a second")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--gateways", type=int, default=2, help="that send steps to the same Triton")
    parser.add_argument("--figures", type=Path, default=MEASURED, help="what bench.capacity_measure has written")
    options = parser.parse_args()
    step, gateway, about = measured(options.figures)
    work = Workload(options.prompt, options.answer, options.think)
    print(", ".join(f"{name}: {value}" for name, value in about.items()))
    print(", ".join(f"{name} {value * 1e6:.1f} µs" for name, value in (asdict(step) | asdict(gateway)).items()))
    print(f"\n{table(step, gateway, work, options.slots, options.gateways)}\n")
    rows = rows_within(step, gateway, work, options.slots, options.pace, options.gateways)
    if rows == 0:
        print(f"Not even one stream gets a token every {options.pace * 1000:.0f} ms here.")
        return
    told = plan(step, gateway, work, rows, options.gateways)
    print(f"Within {options.pace * 1000:.0f} ms a token: {rows} streams, {told.people:.0f} people a Triton.")
    need = gateways(gateway, work, 1, told.answers_per_second, rows, 1 / told.pace)
    print(f"Gateways for it: {need} (two at least); {BUSY / told.gateway_cores:.1f} such Tritons fill the core of one gateway.")


if __name__ == "__main__":
    main()
