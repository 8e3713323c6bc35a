"""How a server does under load: `python -m examples.load --clients 8 --requests 40`. Needs `pip install httpx`.

Each client asks one thing after the other. Reported: the time to the first piece of an answer and to its end (p50 and p95),
and how many tokens a second all of them got together. Who is refused (429, 503) comes again after `Retry-After`.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

URL = os.environ.get("TIDEGATE_URL", "http://localhost:5002")
KEY = os.environ.get("MY_API_KEY", "a_default_key_for_testing")


@dataclass
class Answer:
    first: float  # seconds from the request to the first piece
    whole: float  # seconds from the request to the end
    tokens: int
    refusals: int


async def ask(client: httpx.AsyncClient, question: str, tokens: int) -> Answer:
    body = {"model": "latest_checkpoint.pt", "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    body |= {"temperature": 0.8, "stream": True, "stream_options": {"include_usage": True}}
    refusals = 0
    while True:
        began = time.monotonic()
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code in (429, 503):
                refusals += 1
                await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                continue
            await _raise_for_error(response)
            first = 0.0
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                if not first and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first = time.monotonic() - began
                if event.get("usage"):
                    whole = time.monotonic() - began
                    return Answer(first or whole, whole, event["usage"]["completion_tokens"], refusals)
            raise RuntimeError("the stream ended without its usage")


async def _raise_for_error(response: httpx.Response) -> None:
    if response.status_code != 200:
        raise RuntimeError(json.loads(await response.aread())["error"]["message"])


async def run(clients: int, requests: int, tokens: int) -> tuple[list[Answer], float]:
    """All answers, and the seconds that they took together."""
    questions = iter(range(requests))
    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=URL, headers=headers, limits=limits, timeout=300) as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(_ask_all(client, questions, tokens) for _ in range(clients)))
        return [one for some in answers for one in some], time.monotonic() - began


async def _ask_all(client: httpx.AsyncClient, questions: Iterator[int], tokens: int) -> list[Answer]:
    return [await ask(client, f"Tell me a story about the number {number}.", tokens) for number in questions]


def line(name: str, seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{name}  p50 {statistics.median(seconds):.2f} s  p95 {cuts[18]:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8, help="at once (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=40, help="of all together, 2 at least (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most (default: %(default)s)")
    options = parser.parse_args()
    answers, seconds = asyncio.run(run(options.clients, options.requests, options.tokens))
    print(line("first piece", [answer.first for answer in answers]))
    print(line("whole answer", [answer.whole for answer in answers]))
    print(f"{len(answers)} answers, {sum(answer.tokens for answer in answers) / seconds:.0f} tokens/s, ", end="")
    print(f"{sum(answer.refusals for answer in answers)} refusals")


if __name__ == "__main__":
    main()
