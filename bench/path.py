"""What the way to a token costs: through HTTP, against our own decoder alone and against llama.cpp's server, of SmolLM2-135M.

    python -m bench.path                                         drafts off and on, 1, 8 and 32 streams
    python -m bench.path --quick --gateway SPECULATION=off       one round of one setting

All sides write the same number of tokens behind prompts of the same length, in turn, round after round. The environment's
settings reach the gateways.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from bench import driver, servers
from bench.compare_servers import prompt, start
from bench.engine import Engine, started
from bench.environments import LLAMA_CPP, RUN
from bench.lineup import SETTINGS, huggingface, our_model
from bench.report import Aim, Report, Table, ratio
from bench.servers import Server, settings_of
from gateway.text.tokenizer import Tokenizer
from testing.figures import percentile
from testing.proc import cpu_seconds

STREAMS = (1, 8, 32)
TOKENS = 64
PRECISION = "int8"
ALONE, PEER = "decoder alone", "llama.cpp Q8_0"
OFF = {"SPECULATION": "off"}
AGAINST_DECODER, AGAINST_PEER = (0.92, 0.95, 0.95), (1.0, 1.3, 1.3)
LONGEST_GAP, GATEWAY_CPU = 40.0, 40.0  # ms at one stream; µs a token at 32


@dataclass
class Measured:
    """Of one side with so many streams."""

    rates: list[float] = field(default_factory=list)  # tokens a second, of each round
    first: list[float] = field(default_factory=list)  # seconds
    between: list[float] = field(default_factory=list)  # seconds between events
    cpu: list[float] = field(default_factory=list)  # seconds of the gateway a token, of each round


Figures = dict[int, dict[str, Measured]]  # by streams and side
Side = Callable[[list[str], Measured], None]


def measure(report: Report, gateways: Sequence[Mapping[str, Any]] = (OFF, {}), rounds: int | None = None) -> Figures:
    """Every side in turn, round after round. The gateways' names are their settings."""
    rounds = rounds or (1 if report.quick else 4)
    figures: Figures = {streams: {} for streams in STREAMS}
    with ExitStack() as stack:
        (engine,) = stack.enter_context(started(SETTINGS[:1], report.failures, report.say))
        words = Tokenizer((huggingface() / "tokenizer.json").read_text(), None)
        sides: dict[str, Side] = {ALONE: partial(_alone, engine, words)}
        ours = stack.enter_context(servers.gateways(our_model(PRECISION), *gateways))
        ours = [replace(one, name=f"Tidegate, {settings_of(settings)}") for one, settings in zip(ours, gateways, strict=True)]
        for server in [*ours, *start(report, stack, ("llama.cpp", servers.llama_cpp()))]:
            asyncio.run(driver.together(server, [prompt()], 4))  # a first request prepares what later ones find
            sides[server.name] = partial(_served, server)
        for number in range(rounds):
            report.say(f"  round {number + 1} of {rounds}")
            for streams in STREAMS:
                with report.round("path of a token"):
                    for name, side in sides.items():
                        prompts = [prompt() for _ in range(streams)]  # new ones: two gateways share a cache
                        side(prompts, figures[streams].setdefault(name, Measured()))
    return figures


def _alone(engine: Engine, words: Tokenizer, prompts: list[str], measured: Measured) -> None:
    """The backend's decoder in a process of its own, greedy."""
    answer = engine.ask("decode", prompts=_same_length([words.encode(one) for one in prompts]), tokens=TOKENS)
    measured.rates.append(len(prompts) * TOKENS / (answer["prefill_seconds"] + answer["seconds"]))


def _same_length(prompts: list[list[int]]) -> list[list[int]]:
    """They differ by a token or two, by their numbers: the engines' protocol wants one length."""
    longest = max(map(len, prompts))
    return [one + one[-1:] * (longest - len(one)) for one in prompts]


def _served(server: Server, prompts: list[str], measured: Measured) -> None:
    before, began = cpu_seconds(server.pid), time.perf_counter()
    answers = asyncio.run(driver.together(server, prompts, TOKENS))
    tokens = len(prompts) * TOKENS
    measured.rates.append(tokens / (time.perf_counter() - began))
    measured.cpu.append((cpu_seconds(server.pid) - before) / tokens)
    measured.first += [answer.first for answer in answers]
    measured.between += [later - earlier for answer in answers for earlier, later in pairwise(answer.events)]


def table(figures: Figures) -> Table:
    rows = []
    for streams, by_side in figures.items():
        for name, one in by_side.items():
            against = (f"{ratio(one.rates, by_side[side].rates):.2f}" if side in by_side else "" for side in (ALONE, PEER))
            rows.append((str(streams), name, f"{statistics.median(one.rates):.0f}", *against, *_times(name, one)))
    note = (
        f"{TOKENS} tokens a stream behind prompts of about 25, each new; greedy, streamed; from the first request to the last "
        "token. ms; µs of the gateway's CPU."
    )
    ratios = (f"against {ALONE}", f"against {PEER}")
    times = ("first token p50", "between events p50", "p95", "CPU of a token")
    return Table("Through HTTP", ("streams", "", "tokens/s", *ratios, *times), tuple(rows), note)


def _times(name: str, one: Measured) -> tuple[str, ...]:
    if not one.first:
        return ("",) * 4
    first, *between = (percentile(one.first, 0.5), percentile(one.between, 0.5), percentile(one.between, 0.95))
    cpu = f"{1e6 * statistics.median(one.cpu):.0f}" if name.startswith("Tidegate") else ""
    return f"{1000 * first:.0f}", *(f"{1000 * value:.0f}" for value in between), cpu


def aims(figures: Figures) -> list[Aim]:
    """Of the gateway without drafts."""
    ours = f"Tidegate, {settings_of(OFF)}"
    if any(ours not in by_side for by_side in figures.values()):
        return []
    found = []
    for aim, side, name in ((AGAINST_DECODER, ALONE, "our decoder alone"), (AGAINST_PEER, PEER, "llama.cpp's server")):
        if all(side in by_side for by_side in figures.values()):
            reached = tuple(ratio(by_side[ours].rates, by_side[side].rates) for by_side in figures.values())
            found.append(Aim(f"through HTTP against {name}, drafts off, {' / '.join(map(str, STREAMS))} streams", aim, reached))
    gap = 1000 * percentile(figures[1][ours].between, 0.95)
    cpu = 1e6 * statistics.median(figures[32][ours].cpu)
    found.append(Aim("p95 between events at 1 stream, ms", (LONGEST_GAP,), (gap,), at_most=True))
    return [*found, Aim("gateway CPU a streamed token at 32 streams, µs", (GATEWAY_CPU,), (cpu,), at_most=True)]


def compare(report: Report) -> None:
    figures = measure(report)
    report.tables.append(table(figures))
    report.aims += aims(figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int)
    servers.add_gateway_option(parser)
    options = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    LLAMA_CPP.install()
    report = Report(options.quick)
    figures = measure(report, options.gateway or (OFF, {}), options.rounds)
    report.show([table(figures)], aims(figures))


if __name__ == "__main__":
    main()
