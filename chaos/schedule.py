"""Which faults come when: the same seed gives the same schedule."""

import math
import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "kill of Triton",
    "kill of its stub",
    "stall",
    "swap of a replica",
    "drain of a gateway",
    "disconnect",
    "fault in a delivery",
]
BACKEND: tuple[Kind, ...] = ("kill of Triton", "kill of its stub", "stall", "swap of a replica")  # behind the gateways
DRAIN: Kind = "drain of a gateway"
DISCONNECT: Kind = "disconnect"
IN_DELIVERY: Kind = "fault in a delivery"
LEAVINGS = ("while it sends", "before the first piece", "after the first piece", "in the middle", "without a stream")
SHORTEST_STALL, LONGEST_STALL = 2.0, 20.0  # seconds
ENDLESS = math.inf  # a stall that only a restart ends


@dataclass(frozen=True)
class Plan:
    seed: int = 1
    seconds: float = 12 * 60  # over which the faults are spread; the run takes longer where recovery does
    streams: int = 32
    kills: int = 30
    stub_kills: int = 30
    stalls: int = 10
    swaps: int = 2
    drains: int = 10
    disconnects: int = 200
    delivery_faults: int = 200
    longest_stall: float = LONGEST_STALL

    def counts(self) -> dict[Kind, int]:
        return {
            "kill of Triton": self.kills,
            "kill of its stub": self.stub_kills,
            "stall": self.stalls,
            "swap of a replica": self.swaps,
            "drain of a gateway": self.drains,
            "disconnect": self.disconnects,
            "fault in a delivery": self.delivery_faults,
        }


@dataclass(frozen=True)
class Fault:
    at: float  # seconds after the beginning, or later: those behind the gateways come one after the other
    kind: Kind
    number: int  # among those of its kind, from 0
    luck: float  # from 0 to 1: picks the victim
    everywhere: bool = False  # kills: on all Tritons at once
    early: bool = False  # does not wait until everything has recovered from what came before
    stalled: float = 0.0  # seconds


def schedule(plan: Plan) -> list[Fault]:
    """In the order of time. The faults of a kind are spread evenly, each at a random time of its share."""
    chance = random.Random(plan.seed)
    faults = [
        _fault(plan, kind, number, (number + chance.random()) / count * plan.seconds, chance)
        for kind, count in plan.counts().items()
        for number in range(count)
    ]
    return sorted(faults, key=lambda fault: fault.at)


def _fault(plan: Plan, kind: Kind, number: int, at: float, chance: random.Random) -> Fault:
    luck, early = chance.random(), chance.random() < 0.25
    stalled = chance.uniform(SHORTEST_STALL, plan.longest_stall)
    if kind == "stall":
        return Fault(at, kind, number, luck, stalled=ENDLESS if number % 4 == 3 else stalled)
    kill = kind in ("kill of Triton", "kill of its stub")
    return Fault(at, kind, number, luck, everywhere=kill and number % 4 == 1, early=kill and early)
