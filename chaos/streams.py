"""Two thousand streams at once through a real gateway: does every one of them end in full, and what do they cost?

    python -m chaos.streams

A tiny model of random weights runs behind it, so that connections, the queue and the events are what is tried.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from chaos.clients import KEY
from chaos.memory import sample
from chaos.tiny import TINY, tiny_repository
from testing.client import Answer, stream
from testing.figures import percentile
from testing.stack import running_stack

SLOTS = 128
CONNECT_TOGETHER = 100  # connections that are being opened at the same time: a listener's backlog is finite
MEMORY_INTERVAL = 0.5  # seconds


@dataclass
class Outcome:
    """What became of the streams."""

    seconds: float = 0.0
    complete: int = 0  # with all the tokens they asked for, and `[DONE]`
    first: list[float] = field(default_factory=list)  # seconds to the first event with text
    most_open: int = 0  # connections with a request, at the same time
    failures: Counter[str] = field(default_factory=Counter)


async def streams_at_once(url: str, count: int, tokens: int) -> Outcome:
    """``count`` clients that ask at once for ``tokens`` tokens each, of different prompts, as server-sent events."""
    outcome, connecting = Outcome(), asyncio.Semaphore(CONNECT_TOGETHER)
    answers = [Answer(time.perf_counter()) for _ in range(count)]

    async def ask(number: int, answer: Answer) -> None:
        body = {"model": "latest_checkpoint.pt", "prompt": f"Number {number}", "max_tokens": tokens, "ignore_eos": True}
        body |= {"stream": True, "temperature": 0, "stream_options": {"include_usage": True}}
        try:
            await stream(url, KEY, body, answer, connecting)
        except (OSError, TimeoutError) as error:
            outcome.failures[str(error)[:100] or type(error).__name__] += 1

    await asyncio.gather(*(ask(number, answer) for number, answer in enumerate(answers)))
    outcome.seconds = time.perf_counter() - answers[0].began
    outcome.first = [answer.first for answer in answers if answer.events]
    outcome.complete = sum(answer.complete and answer.tokens == tokens for answer in answers)
    outcome.failures["not in full"] = count - outcome.complete - outcome.failures.total()
    outcome.most_open = _most_open(answers)
    return outcome


def _most_open(answers: list[Answer]) -> int:
    changes = sorted([(answer.opened, 1) for answer in answers] + [(answer.closed, -1) for answer in answers])
    return max(accumulate(change for _, change in changes))


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
        await streams_at_once(gateway.url, 32, 8)
        before, done = sample(gateway.pid, 0).pss, asyncio.Event()
        watched = asyncio.create_task(most_memory(gateway.pid, done))
        result = await streams_at_once(gateway.url, streams, each)
        done.set()
        most, slots_left = await watched, await stack.wait_idle(10)
    tokens = result.complete * each
    facts = {
        "streams, connections at the same time": f"{streams:,}, {result.most_open:,}",
        "ended in full": f"**{result.complete:,}**" + (f"; failures: {dict(+result.failures)}" if +result.failures else ""),
        "tokens": f"{tokens:,} in {result.seconds:.0f} s: {tokens / result.seconds:,.0f} a second",
        "first event, p50 and p95": f"{percentile(result.first, 0.5):.1f} s, {percentile(result.first, 0.95):.1f} s",
        "memory of the gateway": f"{before:.0f} MiB before, at most {most:.0f}: "
        f"{(most - before) * 1024 / streams:.0f} KiB a stream",
        "slots left at the end": str(slots_left),
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())])
    return result.complete == streams and slots_left == 0, table


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
