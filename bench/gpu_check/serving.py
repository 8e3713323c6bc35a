"""The whole stack, through HTTP: a client for each stream."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from bench.driver import together
from bench.servers import Server
from testing.client import Answer
from testing.proc import cpu_seconds

MOST_PROCESSES = 4  # of clients: one alone reads about as many tokens a second as a gateway writes


@dataclass
class Measured:
    """Of one round."""

    streams: int
    tokens: int
    seconds: float
    gateway_seconds: float  # of CPU, of all gateways
    gaps: list[float] = field(default_factory=list)  # seconds between events

    @property
    def rate(self) -> float:
        """Tokens a second of all streams."""
        return self.tokens / self.seconds

    def gap(self, percentile: float) -> float:
        return float(np.percentile(self.gaps, percentile)) if self.gaps else 0.0


def decode(clients: Executor, servers: Sequence[Server], streams: int, tokens: int) -> Measured:
    """All streams at once, each with a short prompt of its own and ``tokens`` tokens behind it; shared among ``servers``, which
    are gateways before one Triton."""
    return _measure(clients, servers, streams, 16, tokens)


def prefill(clients: Executor, servers: Sequence[Server], streams: int, length: int) -> Measured:
    """``length`` tokens of prompt for each stream, and one token behind it."""
    return _measure(clients, servers, streams, length, 1)


def _measure(clients: Executor, servers: Sequence[Server], streams: int, length: int, tokens: int) -> Measured:
    prompts: list[str | list[int]] = [[random.randrange(1000, 20000) for _ in range(length)] for _ in range(streams)]
    spent = sum(cpu_seconds(server.pid) for server in servers)
    processes = min(MOST_PROCESSES, max(len(servers), streams // 16), streams)
    sent = [
        clients.submit(_ask, servers[number % len(servers)], prompts[number::processes], tokens) for number in range(processes)
    ]
    answers = [answer for one in sent for answer in one.result()]
    seconds = max(answer.closed for answer in answers) - min(answer.began for answer in answers)
    spent = sum(cpu_seconds(server.pid) for server in servers) - spent
    gaps = [later - earlier for answer in answers for earlier, later in pairwise(answer.events)]
    return Measured(streams, streams * tokens, seconds, spent, gaps)


def _ask(server: Server, prompts: list[str | list[int]], tokens: int) -> list[Answer]:
    """In a process of clients. Times are of the clock that all processes share."""
    sampled = replace(server, extra={**server.extra, "temperature": 0.8})
    return asyncio.run(together(sampled, prompts, tokens))
