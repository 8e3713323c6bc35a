"""What one ordinary key can send to hurt others, beside a stream and a liveness probe: `python -m chaos.attacks`.

Each line is the smallest form that once hurt. What is measured, from outside: the slowest answer to /livez, the stream's events
a second against those beside harmless requests of the same size, what the gateway's processes grew by, the slowest answer.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chaos.attack_watcher import HEADERS, KEY, MODEL, PATIENCE, PROBE_INTERVAL, json_bytes
from testing import ROOT
from testing.gateway import Gateway
from testing.proc import shared_once
from testing.triton import Triton

SECONDS = 5.0  # that a line is watched for, at least
CHUNK = 65536  # bytes
Request = tuple[str, bytes]  # path and body


@dataclass
class Figures:
    """Of one line. Seconds, MiB, and the stream's events a second."""

    name: str
    livez: float = 0.0
    events: float = 0.0
    harmless_events: float = 0.0
    grown: float = 0.0
    slowest: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.events / self.harmless_events

    def row(self) -> str:
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        answer = f"{self.slowest:.2f} s" if self.slowest else "–"
        return f"| {self.name} | {self.livez * 1e3:.0f} ms | {self.ratio:.2f} | {self.grown:.0f} MiB | {answer} | {statuses} |"


HEAD = (
    "| sent at once | slowest `/livez` | the stream's pace | grown by | slowest answer | answers |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Line:
    name: str
    requests: list[Request]
    harmless: list[Request] = field(default_factory=list)  # what the stream's pace is compared with: [] is nothing beside it
    harmless_at_once: int = 128  # as slowly as those are let through that it is compared with
    unfinished: bool = False  # the last byte of each body never comes


LONG: dict[str, Any] = {"max_tokens": 900, "temperature": 1.5, "ignore_eos": True}


def _chat(**fields: Any) -> Request:
    messages = [{"role": "user", "content": "Hello"}]
    return "/v1/chat/completions", json_bytes(**({"model": MODEL, "messages": messages, "max_tokens": 20} | fields))


def _schema(schema: dict[str, Any]) -> Request:
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
    return _chat(response_format=form, max_tokens=2)


def _large_schema(number: int) -> dict[str, Any]:
    """About 25,000 characters, another one for each number."""
    fields = {f"field_{number}_{index}": {"type": "string", "pattern": f"^[a-z]{{1,{index + 1}}}$"} for index in range(400)}
    return {"type": "object", "properties": fields}


LARGE = [
    _chat(messages=[0] * 520_000),
    _chat(messages=[{}] * 340_000),
    _chat(stop=[""] * 340_000),
    ("/detokenize", json_bytes(tokens=[-1] * 340_000)),
]


def lines() -> list[Line]:
    return [
        Line("`multipleOf` 4999999", [_schema({"type": "integer", "multipleOf": 4999999})]),
        Line("`multipleOf` 1999993", [_schema({"type": "integer", "multipleOf": 1999993})]),
        Line(
            "`(?s:.){900}`, 24 texts",
            [_chat(n=24, response_format={"type": "regex", "regex": "(?s:.){900}"}, **LONG)],
            [_chat(n=24, **LONG)],
        ),
        Line("24 texts of `top_k` 0, `top_p` 1", [_chat(n=24, top_k=0, top_p=1, **LONG)], [_chat(n=24, **LONG)]),
        Line("`/tokenize` 1,048,000 characters", [("/tokenize", json_bytes(prompt="1" * 1_048_000))]),
        Line("520,000 messages `0`", [LARGE[0]]),
        Line("340,000 messages `{}`", [LARGE[1]]),
        Line("340,000 stop strings", [LARGE[2]]),
        Line("`/detokenize` 340,000 × −1", [LARGE[3]]),
        Line("33 of these", (LARGE * 9)[:33]),
        Line(
            "900 uploads without their end",
            [_chat(messages=[{"role": "user", "content": "a" * 1_000_000}])] * 900,
            unfinished=True,
        ),
        Line(
            "100 grammars",
            [_schema(_large_schema(number)) for number in range(100)],
            [_chat(max_tokens=2)] * 60,
            harmless_at_once=2,
        ),
    ]


def measure(line: Line, url: str, pid: int, harmless_events: float, at_once: int = 128) -> Figures:
    """``harmless_events``: a second, of the stream beside ``line.harmless``."""
    figures = Figures(line.name, harmless_events=harmless_events)
    address = urlsplit(url).netloc
    with watched(address, pid, figures):
        began = time.monotonic()
        if line.unfinished:
            _send_unfinished(address, line.requests, figures)
        else:
            _send_all(address, line.requests, figures, at_once)
        time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
    return figures


def pace(url: str, pid: int, line: Line) -> float:
    """The stream's events a second beside the harmless requests of a line."""
    return max(measure(Line("", line.harmless), url, pid, 1.0, line.harmless_at_once).events, 0.1)


@contextmanager
def watched(address: str, pid: int, figures: Figures) -> Iterator[None]:
    """Fills ``figures`` with what a stream, /livez and the processes' memory show meanwhile."""
    over, before = threading.Event(), shared_once(pid) / 2**20
    watching_memory = threading.Thread(target=_watch_memory, args=(pid, before, over, figures))
    watching_memory.start()
    command = [sys.executable, "-m", "chaos.attack_watcher", address]  # not in this process, which is busy with sending
    watcher = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None and watcher.stdout.readline() == "begun\n"
        yield
    finally:
        said, _ = watcher.communicate("over\n", timeout=PATIENCE)
        over.set()
        watching_memory.join()
    figures.livez, figures.events = json.loads(said)


def _watch_memory(pid: int, before: float, over: threading.Event, figures: Figures) -> None:
    while not over.wait(PROBE_INTERVAL):
        figures.grown = max(figures.grown, shared_once(pid) / 2**20 - before)


def _send_all(address: str, requests: list[Request], figures: Figures, at_once: int) -> None:
    """A text that is still being written after SECONDS is left."""

    def send(request: Request) -> tuple[str, float]:
        path, body = request
        long = b'"ignore_eos":true' in body
        connection = http.client.HTTPConnection(address, timeout=SECONDS if long else PATIENCE)
        began = time.monotonic()
        try:
            connection.request("POST", path, body, HEADERS)
            return str(connection.getresponse().status), time.monotonic() - began
        except TimeoutError:
            return "left", 0.0
        except OSError as error:  # a refusal that did not wait for the whole body
            return type(error).__name__, time.monotonic() - began
        finally:
            connection.close()

    if not requests:
        return
    with ThreadPoolExecutor(min(at_once, len(requests))) as threads:
        for status, seconds in threads.map(send, requests):
            figures.statuses[status] = figures.statuses.get(status, 0) + 1
            figures.slowest = max(figures.slowest, seconds)


def _send_unfinished(address: str, requests: list[Request], figures: Figures) -> None:
    """As much of every body as is taken, but its last byte; held for SECONDS."""
    host, port = address.split(":")
    left = {socket.create_connection((host, int(port)), timeout=PATIENCE): _message(address, *one)[:-1] for one in requests}
    connections, deadline = list(left), time.monotonic() + SECONDS
    for connection in connections:
        connection.setblocking(False)
    while time.monotonic() < deadline:
        for connection, message in left.items():
            with suppress(BlockingIOError):
                try:
                    left[connection] = message[connection.send(message[:CHUNK]) :] if message else message
                except ConnectionError:  # refused
                    left[connection] = memoryview(b"")
        time.sleep(0.01)
    figures.statuses["unfinished"] = len(connections)
    for connection in connections:
        connection.close()


def _message(address: str, path: str, body: bytes) -> memoryview:
    fields = HEADERS | {"Host": address, "Content-Length": str(len(body))}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return memoryview(head.encode() + b"\r\n" + body)


def run(url: str, pid: int, say: Callable[[str], None]) -> list[Figures]:
    """Every line, with the harmless ones that they are compared with measured before."""
    paces: dict[int, float] = {}
    figures = []
    say(HEAD)
    for line in lines():
        size = len(line.harmless)
        if size not in paces:
            paces[size] = pace(url, pid, line)
        figures.append(measure(line, url, pid, paces[size]))
        say(figures[-1].row())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.attacks", description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository", help="(default: that of `make serve`)")
    parser.add_argument("--model", default="smollm2-135m-instruct-q4_1")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-attacks-")))
        triton = stack.enter_context(Triton(arguments.repository, directory, [arguments.model]))
        gateway = stack.enter_context(Gateway(triton.grpc_address, directory / "gateway.log", MY_API_KEY=KEY))
        run(gateway.url, gateway.pid, print)


if __name__ == "__main__":
    main()
