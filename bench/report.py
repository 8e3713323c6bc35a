"""What a run of the bench gathers: figures, what each was given, what failed, and how busy others kept the machine."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.driver import Load
from bench.machine import watched

SHARE_TO_TELL = 0.1  # of the machine: what others took above that is reported as it happens


@dataclass(frozen=True)
class Aim:
    """A row of the table that heads the results. ``reached`` is as many figures as ``aim``."""

    what: str
    aim: tuple[float, ...]
    reached: tuple[float, ...]
    at_most: bool = False
    remark: str = ""

    @property
    def met(self) -> bool:
        pairs = zip(self.reached, self.aim, strict=True)
        return all(reached <= aim if self.at_most else reached >= aim for reached, aim in pairs)


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def lines(self) -> list[str]:
        separator = tuple("---" for _ in self.header)
        return ["| " + " | ".join(cells) + " |" for cells in (self.header, separator, *self.rows)]


def aims_table(aims: Sequence[Aim]) -> Table:
    rows = [
        (aim.what, _figures(aim.aim, aim.at_most), _figures(aim.reached), "yes" if aim.met else "no", aim.remark)
        for aim in aims
    ]
    return Table("Aimed at, and reached", ("what", "aim", "reached", "met", "remark"), tuple(rows))


def _figures(values: Sequence[float], at_most: bool = False) -> str:
    return ("≤ " if at_most else "") + " / ".join(f"{value:.0f}" if value >= 20 else f"{value:.3g}" for value in values)


@dataclass
class Report:
    quick: bool
    began: float = field(default_factory=time.time)
    given: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    foreign: dict[str, list[float]] = field(default_factory=dict)  # by step: share of the machine, each round
    decode: dict[str, dict[int, list[float]]] = field(default_factory=dict)  # tokens a second, by engine and streams
    prefill: dict[str, list[float]] = field(default_factory=dict)
    likeness: dict[str, float] = field(default_factory=dict)  # share of a text that equals fp32's
    loads: dict[str, dict[int, list[Load]]] = field(default_factory=dict)  # by server and clients
    context: dict[int, dict[int, float]] = field(default_factory=dict)  # seconds of a step, by streams and past
    floor: float = 0.0  # tokens a second that memory would allow one stream of 8-bit weights
    seconds: dict[str, float] = field(default_factory=dict)  # how long each step took

    def say(self, text: str) -> None:
        print(f"{time.time() - self.began:6.0f} s  {text}", flush=True)

    def show(self, tables: Sequence[Table], aims: Sequence[Aim]) -> None:
        """For those that run one part alone."""
        for table in [*tables, *([aims_table(aims)] if aims else [])]:
            print(f"\n## {table.title}\n", *table.lines(), *(["", table.note] if table.note else []), sep="\n")
        for name, why in self.failures.items():
            print(f"\nFAILED {name}: {why}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A step that fails is named, and the bench goes on."""
        self.say(title)
        start = time.monotonic()
        try:
            yield
        except Exception as error:
            self.failures[title] = f"{type(error).__name__}: {error}"
            self.say(f"  FAILED: {self.failures[title]}")
        self.seconds[title] = time.monotonic() - start

    @contextmanager
    def round(self, step: str) -> Iterator[None]:
        with watched() as foreign:
            yield
        self.foreign.setdefault(step, []).append(foreign.share)
        if foreign.share > SHARE_TO_TELL:
            self.say(f"  others took {foreign.share:.0%} of the machine")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: what lasts for a round hits both."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
