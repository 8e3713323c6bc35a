"""Thousands of people ask, in virtual time: does what the formulas of bench/capacity.py say come true?

    python -m bench.capacity_simulation

The gateways are real: engine, queue, lanes, scheduler, sampling. So is Triton's bookkeeping: the backend's steps, its pool of
slots, its refusals, the merging of steps that wait together. Only three things are reckoned instead of done, with the costs
that were measured: the forward pass, the gateway's work of a step, and the clock. People ask a question, read the answer,
think, and ask again; lengths and thinking are drawn from exponential distributions around the workload's means.
"""

import argparse
import asyncio
import math
import random
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from bench.capacity import GatewayCost, StepCost, Workload, measured, pace, people, rate
from bench.simulated_stack import CONTEXT, VOCABULARY, SimulatedGateway, SimulatedTriton, simulated_model
from bench.virtual_time import virtual_time
from chaos.recovery import percentile
from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRequest, SamplingParameters
from gateway.errors import Overloaded
from gateway.settings import Settings

ASK_AGAIN = 5.0  # seconds after a refusal
PLAIN = SamplingParameters(temperature=0.0)
COLUMNS = "of them|people|answers/s|of the most|streams a Triton|between tokens|first token, p95|refused|Tritons busy"


@dataclass
class Seen:
    """By the people, after the warm-up."""

    answers: int = 0
    tokens: int = 0
    refused: int = 0
    first: list[float] = field(default_factory=list)  # seconds to the first token
    pace: list[float] = field(default_factory=list)  # seconds a token, of each answer


@dataclass(frozen=True)
class Crowd:
    people: int
    work: Workload
    tritons: int = 1
    gateways: int = 1
    slots: int = 32
    seconds: float = 600.0  # of which the first fifth is warm-up
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """Of the whole crowd; rates are a second's."""

    answers: float
    tokens: float
    refused_share: float
    streams: float  # slots of one Triton that are in use: the mean
    pace: float  # seconds between two tokens: the mean
    first_p95: float  # seconds to the first token
    triton_busy: float  # share of the time
    gateway_busy: float
    real_seconds: float  # that simulating it took


async def person(crowd: Crowd, gateway: SimulatedGateway, cost: GatewayCost, draw: random.Random, seen: Seen) -> None:
    work, warm = crowd.work, crowd.seconds / 5
    await asyncio.sleep(draw.expovariate(1 / work.think) if work.think else draw.random())  # all think at first
    while True:
        asked = time.monotonic()
        prompt = min(CONTEXT // 2, max(1, round(draw.expovariate(1 / work.prompt))))
        answer = min(CONTEXT // 2 - 1, max(2, round(draw.expovariate(1 / work.answer))))
        tokens = [draw.randrange(VOCABULARY) for _ in range(prompt)]
        request = GenerationRequest(tokens, answer, PLAIN, ignore_eos=True)
        await gateway.work(cost.per_request)
        try:
            began = await _read(gateway.engine, request)
        except Overloaded:
            seen.refused += time.monotonic() > warm
            await asyncio.sleep(draw.expovariate(1 / ASK_AGAIN))
            continue
        now = time.monotonic()
        if now > warm:
            seen.answers, seen.tokens = seen.answers + 1, seen.tokens + answer
            seen.first.append(began - asked)
            seen.pace.append((now - began) / (answer - 1))
        await asyncio.sleep(draw.expovariate(1 / work.think) if work.think else 0)


async def _read(engine: Engine, request: GenerationRequest) -> float:
    """When the first piece came."""
    began = math.nan
    async with aclosing(engine.generate(request)) as pieces:
        async for _ in pieces:
            if math.isnan(began):
                began = time.monotonic()
    return began


async def _simulate(step: StepCost, cost: GatewayCost, crowd: Crowd) -> Outcome:
    tritons = [SimulatedTriton(step, crowd.slots) for _ in range(crowd.tritons)]
    model = simulated_model(crowd.slots)
    settings = Settings(my_api_key="simulated", speculation=False)  # a reckoned step has one token a row
    gateways = [SimulatedGateway(cost, model, tritons, settings) for _ in range(crowd.gateways)]
    draw, seen, began = random.Random(crowd.seed), Seen(), time.perf_counter()
    everybody = [
        asyncio.create_task(person(crowd, gateways[number % crowd.gateways], cost, random.Random(draw.random()), seen))
        for number in range(crowd.people)
    ]
    used = []  # slots, once a second after the warm-up
    while time.monotonic() < crowd.seconds:
        await asyncio.sleep(1.0)
        used += [one.pool.used for one in tritons if time.monotonic() > crowd.seconds / 5]
    for one in everybody:
        one.cancel()
    failed = [end for end in await asyncio.gather(*everybody, return_exceptions=True) if isinstance(end, Exception)]
    await asyncio.gather(*(gateway.close() for gateway in gateways), *(triton.close() for triton in tritons))
    if failed:
        raise failed[0]
    counted, asked = crowd.seconds * 4 / 5, seen.answers + seen.refused
    return Outcome(
        answers=seen.answers / counted,
        tokens=seen.tokens / counted,
        refused_share=seen.refused / asked if asked else 0.0,
        streams=sum(used) / max(1, len(used)),
        pace=sum(seen.pace) / max(1, len(seen.pace)),
        first_p95=percentile(seen.first, 0.95) if seen.first else math.inf,
        triton_busy=sum(one.busy for one in tritons) / len(tritons) / crowd.seconds,
        gateway_busy=sum(one.seconds for one in gateways) / len(gateways) / crowd.seconds,
        real_seconds=time.perf_counter() - began,
    )


def simulate(step: StepCost, gateway: GatewayCost, crowd: Crowd) -> Outcome:
    with virtual_time() as runner:
        return runner.run(_simulate(step, gateway, crowd))


def report(step: StepCost, gateway: GatewayCost, like: Crowd, shares: Sequence[float]) -> str:
    """Markdown: for each share of the people that the formulas say can be served, what became of them. ``like``: everything but
    how many they are."""
    work, full = like.work, (step, gateway, like.work, like.slots, like.gateways)
    most, best = people(*full) * like.tritons, rate(*full) * like.tritons
    lines = [
        f"{like.tritons} Tritons of {like.slots} slots, {like.gateways} gateways; {work.prompt:.0f} tokens of a prompt, "
        f"{work.answer:.0f} of an answer, {work.think:.0f} s of thinking; {like.seconds:.0f} s. By the formulas they serve "
        f"**{most:,.0f} people**: {best:.2f} answers a second, a token every {pace(*full) * 1000:.0f} ms.\n",
        f"|{COLUMNS}|\n|{'---|' * (COLUMNS.count('|') + 1)}",
    ]
    for share in shares:
        crowd = replace(like, people=round(most * share))
        told = simulate(step, gateway, crowd)
        cells = [f"{share:.0%}", f"{crowd.people:,}", f"{told.answers:.2f}", f"{told.answers / best:.0%}"]
        cells += [f"{told.streams:.1f}", f"{told.pace * 1000:.0f} ms", f"{told.first_p95:.1f} s", f"{told.refused_share:.1%}"]
        lines.append(f"| {' | '.join(cells)} | {told.triton_busy:.0%} |")
        print(f"{share:.0%} simulated in {told.real_seconds:.0f} s", file=sys.stderr)
    return "\n".join(lines)


SHARES = (0.5, 0.75, 0.9, 1.0, 1.2)
CROWD = Crowd(people=0, work=Workload(prompt=30, answer=100, think=180), tritons=8, gateways=2, slots=32, seconds=240)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity_simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tritons", type=int, default=CROWD.tritons)
    parser.add_argument("--gateways", type=int, default=CROWD.gateways)
    parser.add_argument("--slots", type=int, default=CROWD.slots, help="of each Triton")
    parser.add_argument("--prompt", type=float, default=CROWD.work.prompt)
    parser.add_argument("--answer", type=float, default=CROWD.work.answer)
    parser.add_argument("--think", type=float, default=CROWD.work.think)
    parser.add_argument("--seconds", type=float, default=CROWD.seconds, help="of virtual time")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the people by the formulas")
    options = parser.parse_args()
    step, gateway, _ = measured()
    work = Workload(options.prompt, options.answer, options.think)
    crowd = Crowd(0, work, options.tritons, options.gateways, options.slots, options.seconds)
    print(report(step, gateway, crowd, options.shares))


if __name__ == "__main__":
    main()
