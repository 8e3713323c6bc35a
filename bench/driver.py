"""Clients in a closed loop: so many at once, each asks again as soon as its answer has ended, for a bounded time.

Plain sockets that keep nothing but times, so that they leave the machine to the server: httpx takes as much of a core as a
gateway does.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.servers import KEY, Server

CONNECT_TIMEOUT, SILENCE = 30.0, 300.0  # seconds


@dataclass
class Answer:
    """When each event with text arrived. A server sends one a token, but for half characters and accepted drafts."""

    began: float
    events: list[float] = field(default_factory=list)
    complete: bool = False

    @property
    def first(self) -> float:
        return self.events[0] - self.began


@dataclass
class Load:
    """What so many clients saw, of what happened in the window."""

    clients: int
    tokens_per_second: float
    first: list[float]  # seconds to a first token
    between: list[float]  # seconds between tokens that follow each other
    failures: list[str]
    events: list[int] = field(default_factory=list)  # with text, of each answer that was complete


async def ask(server: Server, prompt: str | list[int], tokens: int, answer: Answer | None = None) -> Answer:
    """Raises OSError where the server refuses or breaks off."""
    answer = answer or Answer(time.perf_counter())
    address = urlsplit(server.address)
    async with asyncio.timeout(CONNECT_TIMEOUT):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        body = json.dumps(server.body(prompt, tokens)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nX-API-Key: {KEY}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        status = await _line(reader)
        while line := await _line(reader):
            if line.startswith(b"data: {"):
                if _has_text(line):
                    answer.events.append(time.perf_counter())
            elif line.startswith(b"data: [DONE]"):
                answer.complete = True
                return answer
            elif b" 200 " not in status and line.startswith(b"{"):
                raise OSError(f"{status.decode().strip()}: {line.decode().strip()[:200]}")
        if not answer.events:
            raise OSError(f"the answer ended without a token: {status.decode().strip()}")
        answer.complete = True
        return answer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _line(reader: asyncio.StreamReader) -> bytes:
    # not wait_for: Python 3.11's loses a cancellation that comes together with a line
    async with asyncio.timeout(SILENCE):
        return await reader.readline()


def _has_text(line: bytes) -> bool:
    choices = json.loads(line[6:]).get("choices")
    return bool(choices and choices[0].get("text"))


async def closed_loop(
    server: Server, clients: int, prompts: Callable[[], str], tokens: int, *, warm_up: float, seconds: float
) -> Load:
    """What still runs at the end of the window is left: a server that is slow takes no longer than a fast one."""
    answers: list[Answer] = []
    failures: list[str] = []
    opening = time.perf_counter() + warm_up
    closing = opening + seconds

    async def client(number: int) -> None:
        # over the first half of the warm-up, so that not all texts begin and end together
        await asyncio.sleep(warm_up / 2 * number / clients)
        while time.perf_counter() < closing:
            answer = Answer(time.perf_counter())
            answers.append(answer)
            try:
                await ask(server, prompts(), tokens, answer)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                failures.append(str(error) or type(error).__name__)
                await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(closing - time.perf_counter())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return summed(answers, failures, clients, opening, closing)


def summed(answers: list[Answer], failures: list[str], clients: int, opening: float, closing: float) -> Load:
    arrived = sum(opening <= event < closing for answer in answers for event in answer.events)
    first = [answer.first for answer in answers if answer.events and opening <= answer.events[0] < closing]
    between = [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.events, answer.events[1:], strict=False)
        if opening <= later < closing
    ]
    events = [len(answer.events) for answer in answers if answer.complete]
    return Load(clients, arrived / (closing - opening), first, between, failures, events)


async def together(server: Server, prompts: Sequence[str | list[int]], tokens: int) -> list[Answer]:
    """All of them at once, each once."""
    return list(await asyncio.gather(*(ask(server, prompt, tokens) for prompt in prompts)))
