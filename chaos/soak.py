"""`python -m chaos.soak --minutes 30`: a steady mixed load without faults, in which nothing may grow.

Clients of several keys ask short and long, greedy and seeded, for several answers, for given forms; some leave, some send what
is refused. The memory of every process is sampled; a line through the second half of the samples tells its growth. At the end
open files, threads, files in /dev/shm and slots must be what they were after the warm-up without load.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from chaos.clients import KEY, Client
from chaos.load import Load
from chaos.memory import Growth, Sample, sample
from chaos.oracle import Tally, expected_texts
from chaos.questions import questions
from chaos.recovery import Recoveries
from chaos.schedule import LEAVINGS
from chaos.tiny import RUN, TINY, tiny_repository
from gateway.keys import ApiKey, KeyFile, digest_of
from testing.stack import Stack, running_stack

REPORT = RUN / "soak.json"
MOST_GROWTH = 1.0  # MiB a minute
SAMPLE_INTERVAL = 5.0  # seconds
LEAVE_INTERVAL = 2.0  # seconds between clients that leave
REFUSED_INTERVAL = 1.0  # seconds between requests that are refused
IDLE_TIMEOUT = 20.0  # seconds
MORE_FILES = 4  # that may be open at the end: gRPC opens a connection again now and then
KEYS = ("one", "two", "three")
REFUSED: tuple[tuple[int, dict[str, Any], dict[str, str]], ...] = (  # status, what httpx sends, headers
    (400, {"content": b"{"}, {}),
    (400, {"json": {"prompt": ""}}, {}),
    (400, {"json": {"prompt": "a", "max_length": 10**9}}, {}),
    (400, {"json": {"prompt": "too long " * 2000}}, {}),
    (400, {"json": {"prompt": "a", "response_format": {"type": "regex", "regex": "("}}}, {}),
    (401, {"json": {"prompt": "a"}}, {"X-API-Key": "wrong"}),
    (404, {"json": {"prompt": "a", "model": "gpt-5"}}, {}),
)


@dataclass
class Watched:
    """What is known of one process."""

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)


async def soak(seconds: float, streams: int, repository: Path, run_dir: Path, say: Any) -> dict[str, Any]:
    run_dir.mkdir(parents=True, exist_ok=True)
    keys = run_dir / "keys.json"
    keys.write_text(KeyFile(keys=[ApiKey(name=key, sha256=digest_of(key.encode())) for key in KEYS]).model_dump_json())
    async with running_stack(repository, run_dir, model=TINY, MY_API_KEY=KEY, API_KEYS_FILE=str(keys)) as stack:
        client = Client(stack.gateways[0].url)
        asked = questions()
        tally = Tally(await expected_texts(client, asked))
        await client.close()
        statuses: Counter[str] = Counter()
        watched = _processes(stack)
        await stack.wait_idle(IDLE_TIMEOUT)
        before = _state(watched, stack)
        say("the load begins")
        began = time.monotonic()
        recoveries = _Forgetful()
        loads = [Load([stack.gateways[0].url], asked, tally, recoveries, seed, key) for seed, key in enumerate(KEYS)]
        async with asyncio.TaskGroup() as tasks:
            for place, load in enumerate(loads):
                tasks.create_task(load.run(streams // len(loads) + (place < streams % len(loads))))
            tasks.create_task(_leave(loads[0], seconds))
            tasks.create_task(_be_refused(stack.gateways[0].url, statuses, seconds))
            await _watch(watched, began, seconds, say)
            for load in loads:
                load.end()
        slots_left = await stack.wait_idle(IDLE_TIMEOUT)
        after = _state(watched, stack)
    return _report(seconds, streams, tally, statuses, watched, before, after, slots_left)


class _Forgetful(Recoveries):
    """Keeps no arrivals: the harness must not grow either."""

    def stream(self) -> Any:
        return super().stream() if not self._streams else self._streams[0][:0]


def _processes(stack: Stack) -> list[Watched]:
    triton = stack.tritons[0].server
    stubs = [Watched("stub", pid) for pid in triton.stub_pids]
    return [Watched("gateway", stack.gateways[0].pid), Watched("Triton", triton.pid), *stubs]


def _state(watched: list[Watched], stack: Stack) -> dict[str, int]:
    """What must be the same at the end. The time is the last sample's."""
    counts: dict[str, int] = {}
    for process in watched:
        usage = sample(process.pid, 0)
        counts |= {f"open files of {process.name}": usage.open_files, f"threads of {process.name}": usage.threads}
    shared = list(Path("/dev/shm").glob(f"{stack.tritons[0].server.shm_prefix}*"))
    return counts | {"files in /dev/shm": len(shared), "bytes in /dev/shm": sum(file.stat().st_size for file in shared)}


async def _watch(watched: list[Watched], began: float, seconds: float, say: Any) -> None:
    while (at := time.monotonic() - began) < seconds:
        for process in watched:
            process.samples.append(sample(process.pid, at))
        if len(watched[0].samples) % 12 == 1:
            say(f"{at / 60:5.1f} min  " + ", ".join(f"{one.name} {one.samples[-1].pss:.1f} MiB" for one in watched))
        await asyncio.sleep(SAMPLE_INTERVAL)


async def _leave(load: Load, seconds: float) -> None:
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        await load.leave(LEAVINGS[number % len(LEAVINGS)], random.Random(number).random())
        number += 1
        await asyncio.sleep(LEAVE_INTERVAL)


async def _be_refused(url: str, statuses: Counter[str], seconds: float) -> None:
    """Counts those that were answered as they should be, and those that were not."""
    end, number = time.monotonic() + seconds, 0
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        while time.monotonic() < end:
            status, sent, headers = REFUSED[number % len(REFUSED)]
            answer = await http.post("/generate", headers={"X-API-Key": KEYS[0]} | headers, **sent)
            right = answer.status_code == status
            statuses[f"{status}" if right else f"{answer.status_code} instead of {status}"] += 1
            number += 1
            await asyncio.sleep(REFUSED_INTERVAL)


def _report(
    seconds: float,
    streams: int,
    tally: Tally,
    statuses: Counter[str],
    watched: list[Watched],
    before: dict[str, int],
    after: dict[str, int],
    slots_left: int,
) -> dict[str, Any]:
    growth = {process.name: asdict(Growth.of(process.samples)) for process in watched}
    more = {what: after[what] - before[what] for what in after}
    good = (
        tally.lost == tally.wrong == slots_left == 0
        and all(one["slope"] <= MOST_GROWTH for one in growth.values())
        and all(count <= (0 if "shm" in what else MORE_FILES) for what, count in more.items())
        and not any("instead" in status for status in statuses)
    )
    return {
        "good": good,
        "seconds": seconds,
        "streams": streams,
        "requests": tally.requests,
        "answered": tally.answered,
        "left": tally.left,
        "refused": dict(statuses),
        "texts_compared": tally.texts_compared,
        "lost": tally.lost,
        "wrong": tally.wrong,
        "examples": tally.examples,
        "most_growth": MOST_GROWTH,
        "growth": growth,
        "before": before,
        "after": after,
        "slots_left": slots_left,
        "samples": {process.name: [asdict(one) for one in process.samples] for process in watched},
    }


def table(report: dict[str, Any]) -> str:
    lines = ["| process | memory grows by, MiB a minute | at the beginning of the second half | at the end |"]
    lines.append("| --- | --- | --- | --- |")
    for name, one in report["growth"].items():
        slope = f"{one['slope']:+.3f} ± {one['error']:.3f}"
        lines.append(f"| {name} | {slope} | {one['first']:.1f} MiB | {one['last']:.1f} MiB |")
    texts = f"{report['texts_compared']:,}, {report['lost']}, {report['wrong']}"
    refused = sum(report["refused"].values())
    facts = {
        "duration, streams at a time": f"{report['seconds'] / 60:.0f} minutes, {report['streams']}",
        "requests: answered, left, refused": f"{report['answered']:,}, {report['left']:,}, {refused:,}",
        "texts compared, lost, wrong": texts,
        "slots left at the end": str(report["slots_left"]),
    }
    facts |= {f"{what}, before and after": f"{report['before'][what]}, {after}" for what, after in report["after"].items()}
    rows = (f"| {name} | {value} |" for name, value in facts.items())
    return "\n".join([*lines, "", "| the run | |", "| --- | --- |", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--streams", type=int, default=16, help="requests at a time")
    parser.add_argument("--repository", type=Path, help="a model repository with a tiny-gpt2 (default: made here)")
    parser.add_argument("--json", type=Path, default=REPORT, help="where the figures go")
    arguments = parser.parse_args()
    repository = arguments.repository or tiny_repository()
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as run_dir:
        load = soak(arguments.minutes * 60, arguments.streams, repository, Path(run_dir), lambda line: print(line, flush=True))
        report = asyncio.run(load)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{table(report)}\n")
    for example in report["examples"]:
        print(example)
    print(f"{'PASSED' if report['good'] else 'FAILED'}; the figures are in {arguments.json}")
    sys.exit(0 if report["good"] else 1)


if __name__ == "__main__":
    main()
