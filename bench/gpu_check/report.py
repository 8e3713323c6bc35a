"""What was measured, as a table for people and as JSON for programs; and how far it is from what was aimed at."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.gpu_check.golden import Check
from bench.gpu_check.models import Candidate

OURS, ALONE = "HTTP and Triton", "the decoder alone"
# Of the issue that asked for this: tokens a second against transformers at one stream; tokens a second of GPT-2 at 256 streams;
# a decode step's time against what its bytes take at the bandwidth of a copy, at 64 streams and more.
AGAINST_TRANSFORMERS, RATE_AT_256, STEPS_OF_FLOOR = 3.0, 25_000.0, 2.5


@dataclass
class Figures:
    """Of one model. Keys: number of streams, then who."""

    rates: dict[int, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    gaps: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))  # p50, p95, seconds
    gateway: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds of CPU a token
    prefill: list[float] = field(default_factory=list)  # tokens a second
    failures: dict[str, str] = field(default_factory=dict)

    def rate(self, streams: int, who: str) -> float | None:
        rates = self.rates[streams].get(who)
        return statistics.median(rates) if rates else None

    def others(self) -> list[str]:
        names = dict.fromkeys(name for rates in self.rates.values() for name in rates)
        return [name for name in names if name not in (OURS, ALONE)]

    def floor(self, model: Candidate, streams: int, past: float, bandwidth: float) -> float | None:
        """How many times longer a step of the decoder takes than reading its weights and its rows' cache."""
        rate = self.rate(streams, ALONE)
        if rate is None:
            return None
        return streams / rate / ((model.weight_bytes + streams * past * model.kv_bytes) / bandwidth)

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens_per_second": {streams: dict(rates) for streams, rates in self.rates.items()},
            "inter_token_latency_p50_p95_seconds": dict(self.gaps),
            "gateway_cpu_seconds_per_token": dict(self.gateway),
            "prefill_tokens_per_second": self.prefill,
            "failures": self.failures,
        }


def table(model: Candidate, figures: Figures, past: float, bandwidth: float) -> str:
    others = figures.others()
    titles = ["streams", f"{OURS}, tokens/s", "inter-token p50 / p95, ms", ALONE, "gateway's share", "times the floor", *others]
    lines = [f"### {model.title}", "", f"| {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) - 1)]
    for streams in figures.rates:
        ours, alone = figures.rate(streams, OURS), figures.rate(streams, ALONE)
        p50, p95 = (statistics.median(one) * 1e3 for one in zip(*figures.gaps[streams], strict=True))
        floor = figures.floor(model, streams, past, bandwidth)
        share = f"{1 - ours / alone:.0%}" if ours and alone else "–"
        cells = [streams, _number(ours), f"{p50:.1f} / {p95:.1f}", _number(alone), share, f"{floor:.1f}" if floor else "–"]
        lines.append(f"| {' | '.join(map(str, [*cells, *(_against(ours, figures.rate(streams, one)) for one in others)]))} |")
    lines += [
        "",
        f"Prefill, prompts of 512 tokens: {_number(statistics.median(figures.prefill))} tokens a second through HTTP.",
    ]
    lines += [f"{who}: failed. {why}" for who, why in figures.failures.items()]
    return "\n".join(lines)


def checks(found: list[Check]) -> str:
    return "\n".join(f"- {'passed' if one.passed else '**FAILED**'}: {one.title} ({one.detail})" for one in found)


def aims(measured: list[tuple[Candidate, Figures]], past: float, bandwidth: float) -> Iterator[str]:
    """A line for each; only of what was measured."""
    for model, figures in measured:
        ours = figures.rate(1, OURS)
        theirs = next((figures.rate(1, one) for one in figures.others() if one.startswith("transformers")), None)
        if ours and theirs:
            yield _line(f"{model.title}, 1 stream, against transformers", ours / theirs, AGAINST_TRANSFORMERS)
        if model.title.startswith("GPT-2") and (rate := figures.rate(256, OURS)):
            yield _line(f"{model.title}, 256 streams, tokens a second", rate, RATE_AT_256)
        for streams in figures.rates:
            if streams >= 64 and (floor := figures.floor(model, streams, past, bandwidth)):
                yield _line(f"{model.title}, {streams} streams, a step in times of the floor", floor, STEPS_OF_FLOOR, most=True)


def _line(title: str, value: float, aim: float, *, most: bool = False) -> str:
    reached = "reached" if (value <= aim if most else value >= aim) else "NOT reached"
    return f"- {title}: {value:,.1f}, the aim is at {'most' if most else 'least'} {aim:,.1f}: {reached}"


def _against(ours: float | None, theirs: float | None) -> str:
    return f"{_number(theirs)} (we: × {ours / theirs:.1f})" if ours and theirs else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
