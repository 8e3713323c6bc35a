"""What a gateway does at ten times its capacity: it should still give nearly all of it.

    python -m chaos.overload

Capacity first: 32 clients that each ask again as soon as they have their answer; the best third of the time counts. Then
requests arrive at ten times that rate, whatever becomes of them: some are answered in full (the goodput), others are refused,
which must be quick and say when to come again. Meanwhile another key, with one request at a time, must still be served. All
requests ask for the same number of tokens. The clients of the overload are plain sockets, so that they leave the machine to the
server.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from chaos.memory import sample
from chaos.tiny import RUN, TINY, tiny_repository
from gateway.keys import ApiKey, KeyFile, digest_of
from testing.figures import percentile
from testing.stack import running_stack

REPORT = RUN / "overload.json"
FLOOD, OTHER = "flood", "other"  # keys
CLIENTS = 32  # that measure the capacity
SLOTS = 32
WARM_UP = 5.0  # seconds
GOAL = 0.9  # of the best goodput
MOST_MEMORY = 64.0  # MiB that the gateway may hold more under the flood than before
PATIENCE = 30.0  # seconds after the last arrival in which answers still count


@dataclass
class Flood:
    """What became of the arrivals."""

    arrivals: int = 0
    answered: list[float] = field(default_factory=list)  # when, seconds after the beginning
    refused: list[float] = field(default_factory=list)  # after how many seconds
    without_retry_after: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


async def post(url: str, key: str, body: bytes) -> tuple[str, bool]:
    """Its status ("cut" where there is no answer) and whether it has a Retry-After, of a request on a connection of its own."""
    address = urlsplit(url)
    head = (
        f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nX-API-Key: {key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(head.encode() + body)
            answer = await reader.read()
        finally:
            writer.close()
    except OSError:
        return "cut", False
    headers = answer.partition(b"\r\n\r\n")[0].lower()
    return (answer[9:12].decode() or "cut"), b"\r\nretry-after:" in headers


def body_of(number: int, tokens: int) -> bytes:
    asked = {"prompt": f"Number {number}", "max_length": tokens, "temperature": 0.0, "ignore_eos": True}
    return json.dumps(asked).encode()


async def capacity(url: str, tokens: int, seconds: float) -> list[float]:
    """Answers a second in each third of the time, of clients that ask again at once. Their first answers are of all lengths, so
    that they do not end together ever after; these are the warm-up."""
    ends: list[float] = []
    numbers, began = iter(range(10**9)), time.monotonic()

    async def ask_on(client: int) -> None:
        await post(url, FLOOD, body_of(next(numbers), 1 + tokens * client // CLIENTS))
        while time.monotonic() - began < WARM_UP + seconds:
            status, _ = await post(url, FLOOD, body_of(next(numbers), tokens))
            if status == "200":
                ends.append(time.monotonic() - began - WARM_UP)

    await asyncio.gather(*(ask_on(client) for client in range(CLIENTS)))
    thirds = [(seconds * third / 3, seconds * (third + 1) / 3) for third in range(3)]
    return [sum(low <= end < high for end in ends) / (high - low) for low, high in thirds]


async def flood(url: str, rate: float, tokens: int, seconds: float) -> Flood:
    """``rate``: arrivals a second, evenly spaced. Ends ``PATIENCE`` seconds after the last of them at the latest."""
    result, began = Flood(), time.monotonic()

    async def ask(number: int) -> None:
        start = time.monotonic()
        status, retry_after = await post(url, FLOOD, body_of(number, tokens))
        result.statuses[status] += 1
        if status == "200":
            result.answered.append(time.monotonic() - began)
        elif status in ("429", "503"):
            result.refused.append(time.monotonic() - start)
            result.without_retry_after += not retry_after

    tasks = []
    while (at := time.monotonic() - began) < seconds:
        while result.arrivals < at * rate:
            tasks.append(asyncio.create_task(ask(result.arrivals)))
            result.arrivals += 1
        await asyncio.sleep(0.005)
    _, late = await asyncio.wait(tasks, timeout=PATIENCE)
    for task in late:
        task.cancel()
    result.statuses["no answer yet"] = len(late)
    return result


@dataclass
class Beside:
    """What became of the other key's requests."""

    ends: list[float] = field(default_factory=list)  # when an answer came, seconds after the beginning
    times: list[float] = field(default_factory=list)  # how many seconds each took
    statuses: Counter[str] = field(default_factory=Counter)


async def served_beside(url: str, tokens: int, seconds: float) -> Beside:
    """One request at a time."""
    result, began = Beside(), time.monotonic()
    while (start := time.monotonic()) < began + seconds:
        status, _ = await post(url, OTHER, body_of(-1, tokens))
        result.statuses[status] += 1
        result.times.append(time.monotonic() - start)
        if status == "200":
            result.ends.append(time.monotonic() - began)
        await asyncio.sleep(0.2)
    return result


async def watched_memory(pid: int, seconds: float) -> list[float]:
    """MiB, once a second."""
    sizes, began = [], time.monotonic()
    while (at := time.monotonic() - began) < seconds:
        sizes.append(sample(pid, at).pss)
        await asyncio.sleep(1)
    return sizes


async def measure(arguments: argparse.Namespace, repository: Path, run_dir: Path) -> dict[str, Any]:
    keys = run_dir / "keys.json"
    keys.write_text(
        KeyFile(keys=[ApiKey(name=key, sha256=digest_of(key.encode())) for key in (FLOOD, OTHER)]).model_dump_json()
    )
    async with running_stack(
        repository,
        run_dir,
        model=arguments.model,
        slots=SLOTS,
        API_KEYS_FILE=str(keys),
        MAX_WAITING=str(arguments.waiting),
    ) as stack:
        gateway = stack.gateways[0]
        rounds = await capacity(gateway.url, arguments.tokens, arguments.seconds)
        best = max(rounds)
        print(f"capacity: {best:.1f} answers a second (rounds: {', '.join(f'{one:.1f}' for one in rounds)})", flush=True)
        before, seconds = sample(gateway.pid, 0).pss, arguments.seconds
        result, beside, sizes = await asyncio.gather(
            flood(gateway.url, best * arguments.times, arguments.tokens, seconds),
            served_beside(gateway.url, arguments.tokens, seconds),
            watched_memory(gateway.pid, seconds),
        )
        slots_left = await stack.wait_idle(PATIENCE)
        async with httpx.AsyncClient(trust_env=False) as http:
            ready_after = (await http.get(f"{gateway.url}/readyz")).status_code == 200
    return report(best, arguments, result, beside, before, sizes, slots_left, ready_after)


def report(
    best: float,
    arguments: argparse.Namespace,
    result: Flood,
    beside: Beside,
    before: float,
    sizes: list[float],
    slots_left: int,
    ready_after: bool,
) -> dict[str, Any]:
    in_time = [
        at for at in [*result.answered, *beside.ends] if WARM_UP <= at <= arguments.seconds
    ]  # as the capacity was measured
    goodput = len(in_time) / (arguments.seconds - WARM_UP)
    half = sizes[len(sizes) // 2 :]
    figures = {
        "model": arguments.model,
        "seconds": arguments.seconds,
        "tokens": arguments.tokens,
        "cores": os.cpu_count(),
        "capacity": best,
        "arrivals_per_second": result.arrivals / arguments.seconds,
        "goodput": goodput,
        "goodput_share": goodput / best,
        "statuses": dict(result.statuses),
        "refusals": len(result.refused),
        "refusals_without_retry_after": result.without_retry_after,
        "refusal_p50": percentile(result.refused, 0.5) if result.refused else None,
        "refusal_p95": percentile(result.refused, 0.95) if result.refused else None,
        "gateway_before": before,
        "gateway_most": max(sizes),
        "gateway_second_half": [min(half), max(half)],
        "other_key_statuses": dict(beside.statuses),
        "other_key_p95": percentile(beside.times, 0.95),
        "slots_left": slots_left,
        "ready_after": ready_after,
    }
    good = (
        goodput >= GOAL * best
        and result.without_retry_after == 0
        and set(result.statuses) <= {"200", "429", "503", "no answer yet"}
        and set(beside.statuses) == {"200"}
        and max(sizes) - before <= MOST_MEMORY
        and slots_left == 0
        and ready_after
    )
    return {"good": good} | figures


def table(result: dict[str, Any]) -> str:
    low, high = result["gateway_second_half"]
    p50, p95 = (
        f"{result[name] * 1000:.0f} ms" if result[name] is not None else "none" for name in ("refusal_p50", "refusal_p95")
    )
    answers = ", ".join(f"{count} × {status}" for status, count in result["other_key_statuses"].items())
    facts = {
        "model": result["model"],
        "capacity: 32 clients, one request after the other": f"{result['capacity']:.1f} answers/s of {result['tokens']} tokens",
        "arrivals": f"{result['arrivals_per_second']:.0f} a second for {result['seconds']:.0f} s",
        "goodput": f"{result['goodput']:.1f} answers/s, **{result['goodput_share']:.0%} of the best**",
        "refused": f"{result['refusals']:,}, without Retry-After {result['refusals_without_retry_after']}",
        "a refusal took, p50 and p95": f"{p50}, {p95}",
        "another key, one request at a time": f"{answers}, p95 {result['other_key_p95']:.1f} s",
        "memory of the gateway": f"{result['gateway_before']:.0f} MiB before, {low:.0f} to {high:.0f} MiB in the second half",
        "slots left at the end": str(result["slots_left"]),
    }
    return "\n".join(["| overload | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of the flood, and of measuring the capacity")
    parser.add_argument("--times", type=float, default=10, help="the capacity")
    parser.add_argument("--tokens", type=int, default=256, help="of every answer, at most 512")
    parser.add_argument("--waiting", type=int, default=64, help="MAX_WAITING")
    parser.add_argument("--repository", type=Path, help="a model repository with the model (default: one is made here)")
    parser.add_argument("--model", default=TINY, help=f"its name there (default: {TINY}, of 0.1 million parameters)")
    parser.add_argument("--json", type=Path, default=REPORT, help="where the figures go")
    arguments = parser.parse_args()
    if arguments.repository is None and arguments.model != TINY:
        parser.error("--model needs --repository")
    repository = arguments.repository or tiny_repository()
    with tempfile.TemporaryDirectory(prefix="tidegate-overload-") as run_dir:
        result = asyncio.run(measure(arguments, repository, Path(run_dir)))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{table(result)}\n\n{'PASSED' if result['good'] else 'FAILED'}; the figures are in {arguments.json}")
    sys.exit(0 if result["good"] else 1)


if __name__ == "__main__":
    main()
