"""Tokens a second: through HTTP with one gateway process and with more, of the decoder alone, and of what people use now."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing

import numpy as np

from bench import servers
from bench.engine import Engine
from bench.gpu_check import peers, serving
from bench.gpu_check.models import Candidate
from bench.gpu_check.plan import Task, remaining
from bench.gpu_check.report import ALONE, OURS, RECOMPUTE, STATIC, Figures, several

PROMPT, PREFILLED = 16, 512  # tokens
PREFILL = "prefill through HTTP"
STREAMS, STREAMS_QUICK = [1, 8, 64, 256], [1, 4]
TOKENS, TOKENS_QUICK = 128, 8  # of each stream
GATEWAYS, GATEWAYS_QUICK = [1, 2, 4], [1, 2]  # processes, before one Triton
ROUNDS = 3
STOPPING = 15.0  # seconds of a section that are left for its processes to end
RUN_AHEADS = ["off", "10", "25", "100"]
Work = Callable[[int], float]  # streams → tokens a second


def order(streams: list[int], gateways: list[int]) -> Iterator[tuple[str, int]]:
    """What is measured, the most wanted first: a shape that transformers compiles may take a minute."""
    yield from ((OURS, count) for count in streams)
    yield from ((several(number), streams[-1]) for number in gateways if number > 1)
    yield PREFILL, min(8, streams[-1])
    yield from ((ALONE, count) for count in streams)
    yield from ((peer, count) for count in streams for peer in (STATIC, RECOMPUTE))


class Rates:
    def __init__(self, task: Task, candidate: Candidate, figures: Figures, stack: ExitStack, most: int, tokens: int) -> None:
        """``most``: streams at once. ``tokens``: of each."""
        self._task, self._candidate, self._figures, self._stack = task, candidate, figures, stack
        self._most, self._tokens = most, tokens
        self._running: dict[str, Work] = {}

    def measure(self, who: str, streams: int) -> None:
        """Adds a rate to the figures. A peer that fails is reported once and not asked again."""
        if who in self._figures.failures:
            return
        try:
            if who not in self._running:
                self._running |= self._start(who)
            rate = self._running[who](streams)
            if who != PREFILL:
                self._figures.rates[streams][who].append(rate)
        except Exception as error:  # whatever a peer raises
            lines = str(error).splitlines()
            for name in (who,) if who in self._running else self._started_with(who):
                self._figures.failures[name] = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"

    def _started_with(self, who: str) -> tuple[str, ...]:
        """All that cannot run if the start for ``who`` fails: another start would only take as long again."""
        if who in (ALONE, STATIC, RECOMPUTE):
            return (who,)
        return (*(several(number) for number in (GATEWAYS_QUICK if self._task.quick else GATEWAYS)), PREFILL)

    def _start(self, who: str) -> dict[str, Work]:
        if who == ALONE:
            return {who: self._engine(peers.decoder_alone(self._task, self._candidate, self._most))}
        if who in (STATIC, RECOMPUTE):
            return {who: self._engine(peers.peer(self._task, self._candidate, who))}
        return self._stack_through_http()

    def _engine(self, engine: Engine) -> Work:
        self._stack.enter_context(closing(engine))
        warm: set[int] = set()

        def rate(streams: int) -> float:
            prompts = np.random.default_rng(streams).integers(0, 20000, (streams, PROMPT)).tolist()
            for _ in range(1 if streams in warm else 2):  # the first time compiles
                answer = engine.ask(
                    "decode", timeout=min(self._task.left() - STOPPING, 300), prompts=prompts, tokens=self._tokens
                )
            warm.add(streams)
            return streams * (self._tokens - 1) / float(answer["seconds"])

        return rate

    def _stack_through_http(self) -> dict[str, Work]:
        gateways = GATEWAYS_QUICK if self._task.quick else GATEWAYS
        settings = [{"MAX_WAITING": "1024"}] * gateways[-1]
        running = self._stack.enter_context(
            servers.gateways(self._candidate.directory, *settings, slots=self._most, TIDEGATE_DEVICE=self._task.device)
        )
        clients = self._stack.enter_context(_clients())
        for server in running:
            serving.decode(clients, [server], self._most, 4)  # the first steps of a shape are slower

        def decode(number: int, streams: int) -> float:
            served = serving.decode(clients, running[:number], streams, self._tokens)
            if number == 1:
                self._figures.gaps[streams].append((served.gap(50), served.gap(95)))
                self._figures.gateway[streams].append(served.gateway_seconds / served.tokens)
            return served.rate

        def prefill(streams: int) -> float:
            filled = serving.prefill(clients, running[:1], streams, PREFILLED)
            self._figures.prefill.append(filled.streams * PREFILLED / filled.seconds)
            return self._figures.prefill[-1]

        decoding = {several(number): (lambda streams, n=number: decode(n, streams)) for number in gateways}
        return {**decoding, PREFILL: prefill}


def run_ahead(task: Task, candidate: Candidate) -> None:
    """How much a step may draw by itself, in milliseconds, through HTTP."""
    streams, tokens = ([STREAMS_QUICK[-1]], TOKENS_QUICK) if task.quick else ([1, 64, 256], TOKENS)
    settings = [{"MAX_WAITING": "1024", "RUN_AHEAD": budget} for budget in RUN_AHEADS]
    found: dict[str, dict[int, float]] = {budget: {} for budget in RUN_AHEADS}
    with ExitStack() as stack:
        clients = stack.enter_context(_clients())
        running = stack.enter_context(
            servers.gateways(candidate.directory, *settings, slots=streams[-1], TIDEGATE_DEVICE=task.device)
        )
        took, left_out = 0.5, list[str]()
        for count in streams:
            if task.left() - STOPPING < 4 * took:  # the next one has four to sixty-four times the streams
                left_out.append(f"{count} streams")
                task.save(left_out=left_out)
                print(f"left out: {count} streams", flush=True)
                continue
            began = time.monotonic()
            for budget, server in zip(RUN_AHEADS, running, strict=True):
                serving.decode(clients, [server], count, 4)  # the first steps of a shape are slower
                found[budget][count] = serving.decode(clients, [server], count, tokens).rate
                print(f"RUN_AHEAD={budget}, {count} streams: {found[budget][count]:,.0f} tokens/s", flush=True)
                task.save(run_ahead=found)
            took = time.monotonic() - began


def _clients() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(serving.MOST_PROCESSES, mp_context=multiprocessing.get_context("spawn"))


def measure(task: Task, candidate: Candidate) -> Figures:
    """In rounds, so that what disturbs hits all alike. What no longer fits into the time is named."""
    streams, tokens, rounds = (STREAMS_QUICK, TOKENS_QUICK, 1) if task.quick else (STREAMS, TOKENS, ROUNDS)
    figures, took = Figures(), dict[tuple[str, int], float]()
    with ExitStack() as stack:
        rates = Rates(task, candidate, figures, stack, streams[-1], tokens)
        for number in range(rounds):
            for who, count in order(streams, GATEWAYS_QUICK if task.quick else GATEWAYS):
                if task.left() - STOPPING < took.get((who, count), 1.0):
                    if number == 0:
                        figures.left_out.append(f"{who}, {count} streams")
                    continue
                began = time.monotonic()
                rates.measure(who, count)
                took[who, count] = time.monotonic() - began
                rate = figures.rates[count].get(who, [])[number:]
                said = figures.failures.get(who) or (f"{rate[0]:,.0f} tokens/s" if rate else "done")
                print(f"round {number + 1}, {who}, {count} streams: {said}, {remaining(task.left())} left", flush=True)
                task.save(**figures.as_json())
        task.save(**figures.as_json())
    print(*(f"left out: {one}" for one in figures.left_out), sep="\n", flush=True)
    return figures
