"""Servers side by side, through HTTP: N clients in a closed loop, each server in turn, round after round."""

import asyncio
import random
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack

from bench import driver, servers
from bench.environments import PeerError
from bench.lineup import our_model
from bench.machine import wait_idle
from bench.report import Report, Table
from bench.servers import Server
from testing.figures import percentile

CLIENTS, FEW_CLIENTS = (1, 2, 4, 8, 16, 32, 64), (1, 8, 32)  # few: in a quick run, and for the Flask loop, which takes minutes
FLASK = "Flask loop"
TOKENS = 48  # of every answer
LEFT_OVER = 60.0  # seconds that a server may go on with texts whose clients have left
PROMPT = "{} Write a long story about this number, with many chapters, and never stop."


def prompt() -> str:
    """A new one each time, so that nothing of it is cached."""
    return PROMPT.format(random.randrange(10**9))


def start(report: Report, stack: ExitStack, *starting: tuple[str, AbstractContextManager[Server]]) -> list[Server]:
    """Those that start; the others are named."""
    running = []
    for name, context in starting:
        try:
            server = stack.enter_context(context)
            report.given[f"{server.name} (server)"] = server.given
            report.say(f"  {name}: {server.given}")
            running.append(server)
        except (PeerError, OSError) as error:
            report.failures[f"{name} (server)"] = str(error)
            report.say(f"  {name} cannot take part: {error}")
    return running


def compare(report: Report) -> None:
    with ExitStack() as stack:
        ours = stack.enter_context(servers.gateways(our_model("int8"), {}))[0]
        report.given["Tidegate (server)"] = ours.given
        peers = start(
            report,
            stack,
            ("llama.cpp", servers.llama_cpp()),
            ("transformers serve", servers.transformers_serve()),
            *([] if report.quick else [(FLASK, servers.flask_loop())]),
        )
        sweep(report, [ours, *peers])
    _table(report)


def sweep(report: Report, running: Sequence[Server]) -> None:
    clients = FEW_CLIENTS if report.quick else CLIENTS
    window, rounds = (3.0, 1) if report.quick else (5.0, 2)
    for server in running:
        asyncio.run(driver.together(server, [prompt()], 4))  # a first request prepares what later ones find
    for number in range(rounds):
        report.say(f"  round {number + 1} of {rounds}")
        for count in clients:
            with report.round("servers"):
                for server in running:
                    if server.name == FLASK and count not in FEW_CLIENTS:
                        continue
                    load = asyncio.run(driver.closed_loop(server, count, prompt, TOKENS, warm_up=window / 2, seconds=window))
                    report.loads.setdefault(server.name, {}).setdefault(count, []).append(load)
                    if not wait_idle(LEFT_OVER):
                        report.failures[f"{server.name}, idle"] = (
                            f"it still computes {LEFT_OVER:.0f} s after its clients have left"
                        )
                    if load.failures:
                        report.failures[f"{server.name}, {count} clients"] = load.failures[0]


def cell(loads: Sequence[driver.Load], share: float, field: str) -> str:
    values = [value for load in loads for value in getattr(load, field)]
    return f"{1000 * percentile(values, share):.0f}" if values else "none"


def _table(report: Report) -> None:
    rows = []
    for name, by_clients in report.loads.items():
        for clients, loads in by_clients.items():
            rate = statistics.median(load.tokens_per_second for load in loads)
            cells = (cell(loads, share, field) for field in ("first", "between") for share in (0.5, 0.95))
            rows.append((name, str(clients), f"{rate:.1f}", *cells))
    note = (
        f"Prompts of about 25 tokens, each new; {TOKENS} tokens an answer; greedy; streamed. Counted is what arrives in "
        "a window; *none*: no such event in it. ms."
    )
    header = ("server", "clients", "tokens/s", "first token p50", "first token p95", "between tokens p50", "p95")
    report.tables.append(Table("Servers, through HTTP", header, tuple(rows), note))
