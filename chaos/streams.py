"""Two thousand streams at once through a real gateway: does every one of them end in full, and what do they cost?

    python -m chaos.streams

A tiny model of random weights runs behind it, so that connections, the queue and the events are what is tried. The clients are
plain sockets that keep nothing but counts, so that they leave the machine to the server.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from chaos.clients import KEY
from chaos.memory import sample
from chaos.recovery import percentile
from chaos.tiny import TINY, tiny_repository
from testing.stack import running_stack

SLOTS = 128
READ_TIMEOUT = 900.0  # seconds without a byte: those that wait for a slot hear nothing
CONNECT_TOGETHER = 100  # connections that are being opened at the same time: a listener's backlog is finite
MEMORY_INTERVAL = 0.5  # seconds


@dataclass
class Told:
    """What became of the streams."""

    seconds: float = 0.0
    complete: int = 0  # with all the tokens they asked for, and `[DONE]`
    first: list[float] = field(default_factory=list)  # seconds to the first event with text
    most_open: int = 0  # connections with a request, at the same time
    failures: Counter[str] = field(default_factory=Counter)


class Streams:
    """``count`` clients that ask at once for ``tokens`` tokens each, of different prompts, as server-sent events."""

    def __init__(self, url: str, count: int, tokens: int) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._count, self._tokens = count, tokens
        self._open = 0
        self._told = Told()
        self._connecting = asyncio.Semaphore(CONNECT_TOGETHER)

    async def run(self) -> Told:
        began = time.monotonic()
        await asyncio.gather(*(self._stream(number) for number in range(self._count)))
        self._told.seconds = time.monotonic() - began
        return self._told

    async def _stream(self, number: int) -> None:
        try:
            async with self._connecting:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                self._open += 1
                self._told.most_open = max(self._told.most_open, self._open)
                writer.write(self._request(number))
                await self._read(reader)
            finally:
                self._open -= 1
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._told.failures[type(error).__name__] += 1

    def _request(self, number: int) -> bytes:
        asked = {"model": "latest_checkpoint.pt", "prompt": f"Number {number}", "max_tokens": self._tokens}
        asked |= {"stream": True, "temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _read(self, reader: asyncio.StreamReader) -> None:
        began, first = time.monotonic(), True
        status = (await asyncio.wait_for(reader.readline(), READ_TIMEOUT)).split(b" ")[1:2]
        if status != [b"200"]:
            self._told.failures[(status[0] if status else b"cut").decode()] += 1
            return
        last = usage = b""
        while line := await asyncio.wait_for(reader.readline(), READ_TIMEOUT):
            if not line.startswith(b"data: "):
                continue
            if first:
                self._told.first.append(time.monotonic() - began)
                first = False
            if b'"usage":{' in line:
                usage = line
            last = line
        if last.startswith(b"data: [DONE]") and f'"completion_tokens":{self._tokens}'.encode() in usage:
            self._told.complete += 1
        else:
            self._told.failures["not in full"] += 1


async def most_memory(pid: int, until: asyncio.Event) -> float:
    """MiB, looked at now and then."""
    most = 0.0
    while not until.is_set():
        most = max(most, sample(pid, 0).pss)
        await asyncio.sleep(MEMORY_INTERVAL)
    return most


async def measure(streams: int, each: int, repository: Path, run_dir: Path) -> tuple[bool, str]:
    """Whether all ended in full, and a table. ``each``: tokens of every answer."""
    async with running_stack(
        repository, run_dir, model=TINY, slots=SLOTS, MAX_WAITING=str(streams), QUEUE_TIMEOUT="3600", MY_API_KEY=KEY
    ) as stack:
        gateway = stack.gateways[0]
        await Streams(gateway.url, 32, 8).run()
        before, done = sample(gateway.pid, 0).pss, asyncio.Event()
        watched = asyncio.create_task(most_memory(gateway.pid, done))
        told = await Streams(gateway.url, streams, each).run()
        done.set()
        most, slots_left = await watched, await stack.wait_idle(10)
    tokens = told.complete * each
    facts = {
        "streams, connections at the same time": f"{streams:,}, {told.most_open:,}",
        "ended in full": f"**{told.complete:,}**" + (f"; failures: {dict(told.failures)}" if told.failures else ""),
        "tokens": f"{tokens:,} in {told.seconds:.0f} s: {tokens / told.seconds:,.0f} a second",
        "first event, p50 and p95": f"{percentile(told.first, 0.5):.1f} s, {percentile(told.first, 0.95):.1f} s",
        "memory of the gateway": f"{before:.0f} MiB before, at most {most:.0f}: "
        f"{(most - before) * 1024 / streams:.0f} KiB a stream",
        "slots left at the end": str(slots_left),
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())])
    return told.complete == streams and slots_left == 0, table


def many_streams(streams: int, tokens: int, repository: Path | None = None) -> tuple[bool, str]:
    """`measure` with all that it needs: enough open files, a repository, a directory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, streams + 200)), hard))
    repository = repository or tiny_repository()
    with tempfile.TemporaryDirectory(prefix="tidegate-streams-") as run_dir:
        return asyncio.run(measure(streams, tokens, repository, Path(run_dir)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.streams", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=2000, help="at most 2,048, the connections that a gateway takes")
    parser.add_argument("--tokens", type=int, default=20, help="of every answer")
    parser.add_argument("--repository", type=Path, help="a model repository with a tiny-gpt2 (default: made here)")
    options = parser.parse_args()
    good, table = many_streams(options.streams, options.tokens, options.repository)
    print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
