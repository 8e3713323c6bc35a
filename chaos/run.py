"""One run: the texts without faults first, then the same questions under faults."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

from chaos.clients import KEY, Client
from chaos.faults import Breaker, Say
from chaos.load import Load
from chaos.oracle import Tally, expected_texts
from chaos.questions import questions
from chaos.recovery import Recoveries
from chaos.report import Report, summary
from chaos.schedule import Plan, schedule
from chaos.tiny import TINY
from testing.stack import KeptTriton, Stack, running_stack

SHARED_MEMORY = Path("/dev/shm")
IDLE_TIMEOUT = 10.0  # seconds after the last answer


async def run(plan: Plan, repository: Path, run_dir: Path, say: Say, command: str = "") -> Report:
    """Two Tritons and a spare one, two gateways."""
    module = "chaos.faulty_gateway"
    async with running_stack(
        repository, run_dir, model=TINY, tritons=2, spares=1, gateways=2, module=module, MY_API_KEY=KEY
    ) as stack:
        servers = [*stack.tritons, *stack.spares]
        asked = questions()
        client = Client(stack.gateways[0].url)
        tally = Tally(await expected_texts(client, asked))
        await client.close()
        say(f"{len(asked)} questions have their texts; the faults begin")
        recoveries, began = Recoveries(), time.monotonic()
        load = Load([gateway.url for gateway in stack.gateways], asked, tally, recoveries, plan.seed)
        breaker = Breaker(stack, load, say)
        await _under_load(plan, load, breaker)
        seconds = time.monotonic() - began
        slots_left = await _slots_left(stack)
    return _report(plan, tally, recoveries, breaker, servers, seconds, slots_left, command)


async def _under_load(plan: Plan, load: Load, breaker: Breaker) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(plan.streams))
        try:
            await breaker.perform(schedule(plan))
        finally:
            load.end()


async def _slots_left(stack: Stack) -> int:
    return await stack.wait_idle(IDLE_TIMEOUT)


def _report(
    plan: Plan,
    tally: Tally,
    recoveries: Recoveries,
    breaker: Breaker,
    servers: list[KeptTriton],
    seconds: float,
    slots_left: int,
    command: str,
) -> Report:
    done = Counter(kind for kind, _ in breaker.done)
    return Report(
        command=command,
        seed=plan.seed,
        seconds=round(seconds, 1),
        streams=plan.streams,
        faults={str(kind): done[kind] for kind in plan.counts()},
        planned={str(kind): count for kind, count in plan.counts().items()},
        requests=tally.requests,
        answered=tally.answered,
        left=tally.left,
        texts_compared=tally.texts_compared,
        bytes_compared=tally.bytes_compared,
        lost=tally.lost,
        wrong=tally.wrong,
        refusals=dict(tally.refusals),
        errors=dict(tally.errors),
        examples=tally.examples,
        recovery={kind: summary(times) for kind, times in recoveries.times(breaker.done).items()},
        restarts=dict(Counter(reason for server in servers for reason in server.restarts)),
        drains=summary([taken for _, taken in breaker.drains]),
        failed_drains=sum(status != 0 for status, _ in breaker.drains),
        slots_left=slots_left,
        shared_memory_left=sum(len(list(SHARED_MEMORY.glob(f"{server.server.shm_prefix}*"))) for server in servers),
        cores=os.cpu_count() or 1,
    )
