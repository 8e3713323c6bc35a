"""The whole stack, through HTTP: Triton and the gateway as `make serve` starts them, and a client for each stream."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np

from bench.capacity import process_seconds
from bench.servers import KEY, wait_healthy
from serve.triton_server import TritonServer, free_port


@dataclass
class Stack:
    address: str
    gateway_pid: int


@dataclass
class Measured:
    """Of one round."""

    streams: int
    seconds: float = 0.0
    tokens: int = 0
    gateway_seconds: float = 0.0  # of CPU
    first: list[float] = field(default_factory=list)  # seconds to the first token
    gaps: list[float] = field(default_factory=list)  # seconds between pieces

    @property
    def rate(self) -> float:
        """Tokens a second of all streams."""
        return self.tokens / self.seconds

    def gap(self, percentile: float) -> float:
        return float(np.percentile(self.gaps, percentile)) if self.gaps else 0.0


@contextmanager
def stack(model: Path, device: str, slots: int, log: Path) -> Iterator[Stack]:
    """``log`` receives the gateway's."""
    environment = {"TIDEGATE_DEVICE": device, "TIDEGATE_SLOTS": str(slots)}
    with (
        tempfile.TemporaryDirectory() as run_dir,
        TritonServer(model.parent, Path(run_dir), [model.name], environment) as triton,
    ):
        triton.wait_ready(300)
        port = free_port()
        command = [sys.executable, "-m", "gateway"]
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "TRITON_URL": triton.grpc_address, "MAX_WAITING": "1024"}
        env = os.environ | settings | {"MY_API_KEY": KEY}
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        try:
            wait_healthy(f"http://127.0.0.1:{port}", process, log)
            yield Stack(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait()


def decode(stack: Stack, streams: int, tokens: int) -> Measured:
    """All streams at once, each with a short prompt of its own and ``tokens`` tokens behind it."""
    prompts = [[random.randrange(1000, 20000) for _ in range(16)] for _ in range(streams)]
    return asyncio.run(_measure(stack, prompts, tokens))


def prefill(stack: Stack, streams: int, length: int) -> Measured:
    """``length`` tokens of prompt for each stream, and one token behind it."""
    return asyncio.run(_measure(stack, [[random.randrange(1000, 20000) for _ in range(length)] for _ in range(streams)], 1))


async def _measure(stack: Stack, prompts: list[list[int]], tokens: int) -> Measured:
    measured = Measured(len(prompts))
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=600) as client:
        spent, began = process_seconds(stack.gateway_pid), time.perf_counter()
        await asyncio.gather(*(_stream(client, stack.address, prompt, tokens, measured) for prompt in prompts))
        measured.seconds = time.perf_counter() - began
        measured.gateway_seconds = process_seconds(stack.gateway_pid) - spent
    return measured


async def _stream(client: httpx.AsyncClient, address: str, prompt: list[int], tokens: int, measured: Measured) -> None:
    body = {"model": "latest_checkpoint.pt", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.8}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    times = [time.perf_counter()]
    async with client.stream("POST", f"{address}/v1/completions", json=body, headers={"X-API-Key": KEY}) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"/v1/completions answered {answer.status_code}: {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    measured.tokens += tokens
    measured.first.append(times[1] - times[0])
    measured.gaps.extend(after - before for before, after in pairwise(times[1:-1]))  # the last piece tells the usage
