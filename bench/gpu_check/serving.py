"""The whole stack, through HTTP: a client for each stream."""

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from bench.driver import together
from bench.servers import Server
from testing.proc import cpu_seconds


@dataclass
class Measured:
    """Of one round."""

    streams: int
    tokens: int
    seconds: float
    gateway_seconds: float  # of CPU
    gaps: list[float] = field(default_factory=list)  # seconds between events

    @property
    def rate(self) -> float:
        """Tokens a second of all streams."""
        return self.tokens / self.seconds

    def gap(self, percentile: float) -> float:
        return float(np.percentile(self.gaps, percentile)) if self.gaps else 0.0


def decode(server: Server, streams: int, tokens: int) -> Measured:
    """All streams at once, each with a short prompt of its own and ``tokens`` tokens behind it."""
    return _measure(server, streams, 16, tokens)


def prefill(server: Server, streams: int, length: int) -> Measured:
    """``length`` tokens of prompt for each stream, and one token behind it."""
    return _measure(server, streams, length, 1)


def _measure(server: Server, streams: int, length: int, tokens: int) -> Measured:
    prompts = [[random.randrange(1000, 20000) for _ in range(length)] for _ in range(streams)]
    sampled = replace(server, extra={**server.extra, "temperature": 0.8})
    spent, began = cpu_seconds(server.pid), time.perf_counter()
    answers = asyncio.run(together(sampled, prompts, tokens))
    seconds, spent = time.perf_counter() - began, cpu_seconds(server.pid) - spent
    gaps = [later - earlier for answer in answers for earlier, later in pairwise(answer.events)]
    return Measured(streams, streams * tokens, seconds, spent, gaps)
