"""What was measured, as a table for people and as JSON for programs; and how far it is from what was aimed at."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS, ALONE = "HTTP and Triton", "the decoder alone"
STATIC, RECOMPUTE = "transformers, static cache, compiled", "the whole sequence again for each token"
# Of the issue that asked for this: tokens a second against transformers at one stream; tokens a second of GPT-2 at 256 streams;
# a decode step's time against what its bytes take at the bandwidth of a copy, at 64 streams and more.
AGAINST_TRANSFORMERS, RATE_AT_256, STEPS_OF_FLOOR = 3.0, 25_000.0, 2.5
Checks = Sequence[Mapping[str, Any]]  # title, passed, detail


def several(gateways: int) -> str:
    """Who: the whole stack with so many gateway processes before one Triton."""
    return OURS if gateways == 1 else f"{OURS}, {gateways} gateways"


@dataclass(frozen=True)
class Bytes:
    """What a decode step reads: the weights, and of every row its cache."""

    weights: int
    position: int
    past: float  # positions
    bandwidth: float  # bytes a second

    def floor(self, streams: int) -> float:
        """Seconds."""
        return (self.weights + streams * self.past * self.position) / self.bandwidth


@dataclass
class Figures:
    """Of one model. Keys: number of streams, then who."""

    rates: dict[int, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    gaps: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))  # p50, p95, seconds
    gateway: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds of CPU a token
    prefill: list[float] = field(default_factory=list)  # tokens a second
    failures: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # for want of time

    def rate(self, streams: int, who: str) -> float | None:
        rates = self.rates.get(streams, {}).get(who)
        return statistics.median(rates) if rates else None

    def best(self, streams: int) -> float | None:
        """Of ours, with as many gateways as it takes."""
        rates = [self.rate(streams, who) for who in self.rates.get(streams, {}) if who.startswith(OURS)]
        return max((rate for rate in rates if rate), default=None)

    def times_floor(self, streams: int, read: Bytes) -> float | None:
        """How many times longer a step of the decoder takes than reading its bytes."""
        rate = self.rate(streams, ALONE)
        return None if rate is None else streams / rate / read.floor(streams)

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens_per_second": {streams: dict(rates) for streams, rates in self.rates.items()},
            "inter_token_latency_p50_p95_seconds": dict(self.gaps),
            "gateway_cpu_seconds_per_token": dict(self.gateway),
            "prefill_tokens_per_second": self.prefill,
            "failures": self.failures,
            "left_out": self.left_out,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Figures":
        """From what `as_json` wrote."""
        values: list[Any] = [document[name] for name in cls().as_json()]
        values[:3] = [{int(streams): one for streams, one in found.items()} for found in values[:3]]
        return cls(*values)


def table(title: str, figures: Figures, read: Bytes) -> str:
    titles = ["streams", f"{OURS}, tokens/s", "inter-token p50 / p95, ms", ALONE, "the rest's share", "times the floor"]
    titles += [STATIC, RECOMPUTE]
    lines = [f"### {title}, tokens a second", "", f"| {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) - 1)]
    for streams in sorted(figures.rates):
        ours, alone = figures.rate(streams, OURS), figures.rate(streams, ALONE)
        gaps = [statistics.median(one) * 1e3 for one in zip(*figures.gaps.get(streams, []), strict=True)]
        floor = figures.times_floor(streams, read)
        share = f"{1 - ours / alone:.0%}" if ours and alone else "–"
        cells = [str(streams), _number(ours), f"{gaps[0]:.1f} / {gaps[1]:.1f}" if gaps else "–", _number(alone), share]
        cells += [f"{floor:.1f}" if floor else "–"]
        cells += [_against(ours, figures.rate(streams, one)) for one in (STATIC, RECOMPUTE)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_gateways(figures)]
    if figures.prefill:
        lines.append(
            f"Prefill, prompts of 512 tokens: {_number(statistics.median(figures.prefill))} tokens a second through HTTP."
        )
    lines += [f"{who}: failed. {why}" for who, why in figures.failures.items()]
    lines += [f"Left out for want of time: {'; '.join(figures.left_out)}."] * bool(figures.left_out)
    return "\n".join(lines)


def _gateways(figures: Figures) -> Iterator[str]:
    for streams, rates in figures.rates.items():
        if len(numbers := [who for who in rates if who.startswith(OURS)]) > 1:
            each = "; ".join(f"{who}: {_number(figures.rate(streams, who))}" for who in numbers)
            yield f"{streams} streams, tokens a second by gateway processes: {each}."


def checks(found: Checks) -> str:
    marks = {True: "passed", False: "**FAILED**"}
    return "\n".join(f"- {marks[one['passed']]}: {one['model']}, {one['title']} ({one['detail']})" for one in found)


def aims(measured: Sequence[tuple[str, Figures, Bytes]]) -> Iterator[str]:
    """A line for each; only of what was measured."""
    for title, figures, read in measured:
        ours, theirs = figures.rate(1, OURS), figures.rate(1, STATIC)
        if ours and theirs:
            yield _line(f"{title}, 1 stream, against transformers", ours / theirs, AGAINST_TRANSFORMERS)
        if title.startswith("GPT-2") and (rate := figures.best(256)):
            yield _line(f"{title}, 256 streams, tokens a second", rate, RATE_AT_256)
        for streams in figures.rates:
            if streams >= 64 and (floor := figures.times_floor(streams, read)):
                yield _line(f"{title}, {streams} streams, a step in times of the floor", floor, STEPS_OF_FLOOR, most=True)


def _line(title: str, value: float, aim: float, *, most: bool = False) -> str:
    reached = "reached" if (value <= aim if most else value >= aim) else "NOT reached"
    return f"- {title}: {value:,.1f}, the aim is at {'most' if most else 'least'} {aim:,.1f}: {reached}"


def _against(ours: float | None, theirs: float | None) -> str:
    return f"{_number(theirs)} (we: × {ours / theirs:.1f})" if ours and theirs else _number(theirs)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
