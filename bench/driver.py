"""Clients in a closed loop: so many at once, each asks again as soon as its answer has ended, for a bounded time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench.servers import KEY, Server
from testing.client import Answer, stream


@dataclass
class Load:
    """What so many clients saw, of what happened in the window."""

    clients: int
    tokens_per_second: float
    first: list[float]  # seconds to a first token
    between: list[float]  # seconds between events that follow each other
    failures: list[str]
    events: list[int] = field(default_factory=list)  # with text, of each answer that was complete


async def ask(server: Server, prompt: str | list[int], tokens: int, answer: Answer | None = None) -> Answer:
    """OSError where the server refuses or breaks off."""
    return await stream(server.address, KEY, server.body(prompt, tokens), answer)


async def together(server: Server, prompts: Sequence[str | list[int]], tokens: int) -> list[Answer]:
    """All of them at once, each once."""
    return list(await asyncio.gather(*(ask(server, prompt, tokens) for prompt in prompts)))


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
    return summed(answers, failures, clients, tokens, opening, closing)


def summed(answers: list[Answer], failures: list[str], clients: int, tokens: int, opening: float, closing: float) -> Load:
    """``tokens``: of each complete answer."""
    complete = [answer for answer in answers if answer.complete]
    # An event may hold several tokens: how many, its length tells. Where no answer was complete, each event is a token.
    token_length = sum(sum(answer.lengths) for answer in complete) / (tokens * len(complete)) if complete else 0.0
    arrived = sum(
        length / token_length if token_length else 1.0
        for answer in answers
        for event, length in zip(answer.events, answer.lengths, strict=True)
        if opening <= event < closing
    )
    first = [answer.first for answer in answers if answer.events and opening <= answer.events[0] < closing]
    between = [b - a for answer in answers for a, b in pairwise(answer.events) if opening <= b < closing]
    return Load(clients, arrived / (closing - opening), first, between, failures, [len(answer.events) for answer in complete])
