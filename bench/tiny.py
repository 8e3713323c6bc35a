"""What the server itself allows: a model that costs next to nothing, so that everything but the model is measured.

    python -m bench.tiny                                   our server beside llama.cpp's, at 1, 8, 32 and 128 clients
    python -m bench.tiny --quick --clients 1 32            one short round
    python -m bench.tiny --gateway SPECULATION=off --gateway SPECULATION=on --alone    two gateways, in turn

The environment's settings reach the gateways. Needs `wrk` on PATH.
"""

import argparse
import asyncio
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import driver, servers, wrk
from bench.compare_servers import start
from bench.environments import LLAMA_CPP, RUN, PeerError
from bench.lineup import MODELS, WEIGHTS
from bench.machine import wait_idle
from bench.report import Aim, Report, Table, ratio
from bench.servers import Server
from bench.tiny_model import CONTEXT, tiny_gguf
from testing.figures import percentile
from testing.models import export
from testing.proc import cpu_seconds

CLIENTS = (1, 8, 32, 128)
SLOTS, TOKENS = 128, 256
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 1, "min_p": 0}
PARTS = ("gateway", "stub", "tritonserver")
OURS, PEER = "Tidegate", "llama.cpp fp32"
AGAINST_PEER = (0.5, 1.2, 2.5, 5.0)  # by CLIENTS
GATEWAY_CPU = (40.0, 40.0)  # µs
LEFT_OVER = 30.0  # seconds that a server may go on with texts whose clients have left


@dataclass
class Measured:
    """Of one server with so many clients, a figure each round."""

    rates: list[float] = field(default_factory=list)  # tokens a second
    spent: dict[str, list[float]] = field(default_factory=dict)  # CPU seconds a token, by part
    first: list[float] = field(default_factory=list)  # seconds, of all rounds
    between: list[float] = field(default_factory=list)  # seconds between events, of all rounds
    events: list[int] = field(default_factory=list)  # of each whole text


@dataclass(frozen=True)
class Plan:
    clients: Sequence[int] = CLIENTS
    rounds: int = 3
    seconds: float = 6.0  # of a window
    gateways: Sequence[Mapping[str, str]] = ({},)
    peer: bool = True


QUICK = Plan(rounds=1, seconds=3.0)
Figures = dict[int, dict[str, Measured]]  # by clients and server


def tiny_model() -> Path:
    """The model directory of the export that the bench keeps."""
    export(gguf(), "--name", "tiny", "--precision", "fp32", repository=MODELS)
    return MODELS / "tiny"


def gguf() -> Path:
    return tiny_gguf(WEIGHTS / "tiny.gguf")


def measure(report: Report, plan: Plan) -> Figures:
    """Every server in turn, round after round."""
    figures: Figures = {clients: {} for clients in plan.clients}
    wrk.program()  # says at once where it is missing
    with ExitStack() as stack:
        running = stack.enter_context(servers.gateways(tiny_model(), *plan.gateways, slots=SLOTS))
        if len(running) > 1:
            names = [f"Tidegate, {servers.settings_of(one)}" for one in plan.gateways]
            running = [replace(server, name=name) for server, name in zip(running, names, strict=True)]
        if plan.peer:
            running += start(report, stack, ("llama.cpp", servers.llama_server("fp32", gguf(), SLOTS, CONTEXT)))
        running = [replace(server, extra=dict(server.extra) | SAMPLING) for server in running]
        for number in range(plan.rounds):
            report.say(f"  round {number + 1} of {plan.rounds}")
            for clients in plan.clients:
                with report.round("tiny model"):
                    for server in running:
                        measured = figures[clients].setdefault(server.name, Measured())
                        try:
                            _measure(server, clients, plan.seconds, measured)
                        except PeerError as error:
                            measured.rates.append(math.nan)
                            report.failures[f"{server.name}, {clients} clients of the tiny model"] = str(error)
    return figures


def _measure(server: Server, clients: int, seconds: float, measured: Measured) -> None:
    def meter() -> tuple[float, ...]:
        return tuple(cpu_seconds(pid) for pid in server.parts.values())

    warm_up = 0.5 + seconds / 4
    flow = wrk.flow(server, clients, TOKENS, meter, warm_up=warm_up, seconds=seconds)
    for part, spent in zip(server.parts, flow.spent_per_token, strict=True):
        measured.spent.setdefault(part, []).append(spent)
    wait_idle(LEFT_OVER)
    others = wrk.Wrk(server, clients - 1, TOKENS) if clients > 1 else None
    load = asyncio.run(driver.closed_loop(server, 1, _prompt, TOKENS, warm_up=warm_up, seconds=seconds))
    if others:
        others.stop()
    wait_idle(LEFT_OVER)
    measured.rates.append(flow.tokens_per_second)
    measured.first += load.first
    measured.between += load.between
    measured.events += load.events


def _prompt() -> str:
    return f"{random.randrange(10**4)} "


def tables(figures: Figures) -> list[Table]:
    """The servers side by side, each with its rate as a part of the last one's, and what a token costs our processes."""
    rows, costs = [], []
    for clients, by_server in figures.items():
        *_, last = by_server
        for name, measured in by_server.items():
            rows.append((str(clients), name, *_cells(measured), f"{ratio(measured.rates, by_server[last].rates):.2f}"))
            if measured.spent:
                spent = (f"{1e6 * statistics.median(measured.spent[part]):.0f}" for part in PARTS)
                costs.append((str(clients), name, *spent))
    note = (
        f"2 layers of 64, fp32, {SLOTS} slots, {TOKENS} tokens a text, temperature 0.8, streamed; wrk is the client. "
        "Times by a client of our own among the others, in ms; *tokens an event* counts events with text."
    )
    header = ("clients", "server", "tokens/s", "tokens an event", "first p50", "between p50", "between p95", "ratio")
    return [
        Table("What the server itself allows", header, tuple(rows), note),
        Table("CPU of a streamed token, µs", ("clients", "server", *PARTS), tuple(costs)),
    ]


def aims(figures: Figures) -> list[Aim]:
    """Of the gateway with default settings."""
    if any(not {OURS, PEER} <= figures.get(clients, {}).keys() for clients in CLIENTS):
        return []
    reached = tuple(ratio(figures[clients][OURS].rates, figures[clients][PEER].rates) for clients in CLIENTS)
    cpu = tuple(1e6 * statistics.median(figures[clients][OURS].spent["gateway"]) for clients in (32, 128))
    what = f"a tiny model through HTTP against llama.cpp's server, {' / '.join(map(str, CLIENTS))} clients"
    return [
        Aim(what, AGAINST_PEER, reached),
        Aim("the same: gateway CPU a streamed token at 32 / 128 clients, µs", GATEWAY_CPU, cpu, at_most=True),
    ]


def compare(report: Report) -> None:
    figures = measure(report, QUICK if report.quick else Plan())
    report.tables += tables(figures)
    report.aims += aims(figures)


def _cells(measured: Measured) -> tuple[str, ...]:
    rate, events = statistics.median(measured.rates), statistics.mean(measured.events) if measured.events else 0.0
    first = f"{1000 * percentile(measured.first, 0.5):.1f}" if measured.first else "none"
    between = (f"{1000 * percentile(measured.between, share):.2f}" if measured.between else "none" for share in (0.5, 0.95))
    return f"{rate:.0f}", f"{TOKENS / events:.1f}" if events else "none", first, *between


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of a window")
    servers.add_gateway_option(parser)
    parser.add_argument("--alone", action="store_true", help="without llama.cpp's server")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    plan = replace(plan, clients=options.clients, gateways=options.gateway or ({},), peer=not options.alone)
    plan = replace(plan, rounds=options.rounds or plan.rounds, seconds=options.seconds or plan.seconds)
    RUN.mkdir(parents=True, exist_ok=True)
    if plan.peer:
        LLAMA_CPP.install()
    report = Report(options.quick)
    figures = measure(report, plan)
    report.show(tables(figures), aims(figures))


if __name__ == "__main__":
    main()
