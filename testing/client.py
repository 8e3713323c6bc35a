"""A client that streams: a plain socket that keeps nothing but times, so that it leaves the machine to the server.

httpx takes as much of a core as a gateway does.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CONNECT_TIMEOUT = 30.0  # seconds
NOTHING: AbstractAsyncContextManager[None] = nullcontext()
SILENCE = 900.0  # seconds without a byte: what waits for a slot hears nothing


@dataclass
class Answer:
    """``events``: when each with text arrived; ``lengths``: of their texts, in characters. ``tokens``: as the usage says,
    where it was asked for."""

    began: float
    events: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    complete: bool = False
    tokens: int | None = None
    opened: float = 0.0  # its connection
    closed: float = 0.0

    @property
    def first(self) -> float:
        return self.events[0] - self.began


async def stream(
    url: str,
    key: str,
    body: Mapping[str, Any],
    answer: Answer | None = None,
    connecting: AbstractAsyncContextManager[None] = NOTHING,
) -> Answer:
    """One of /v1/completions, on a connection of its own that is opened within ``connecting``. OSError where it is refused or
    breaks off."""
    answer = answer or Answer(time.perf_counter())
    address, content = urlsplit(url), json.dumps(body).encode()
    async with connecting, asyncio.timeout(CONNECT_TIMEOUT):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        answer.opened = time.perf_counter()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        status = (await _line(reader)).decode().strip()
        while line := await _line(reader):
            if line.startswith(b"data: {"):
                _note(json.loads(line[6:]), answer)
            elif line.startswith(b"data: [DONE]"):
                answer.complete = True
            elif " 200 " not in status and line.startswith(b"{"):
                raise OSError(f"{status}: {line.decode().strip()[:200]}")
        if not answer.events and not answer.complete:
            raise OSError(f"the answer ended without a token: {status}")
        answer.complete = True
        return answer
    finally:
        answer.closed = time.perf_counter()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _line(reader: asyncio.StreamReader) -> bytes:
    # not wait_for: Python 3.11's loses a cancellation that comes together with a line
    async with asyncio.timeout(SILENCE):
        return await reader.readline()


def _note(event: dict[str, Any], answer: Answer) -> None:
    choices, usage = event.get("choices"), event.get("usage")
    if choices and (text := choices[0].get("text")):
        answer.events.append(time.perf_counter())
        answer.lengths.append(len(text))
    if usage:
        answer.tokens = usage["completion_tokens"]
