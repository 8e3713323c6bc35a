"""What a run has shown: as an object, as JSON, as a table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testing.figures import percentile


@dataclass(frozen=True)
class Report:
    command: str
    seed: int
    seconds: float
    streams: int
    faults: dict[str, int]  # by kind
    planned: dict[str, int]
    requests: int
    answered: int
    left: int
    texts_compared: int
    bytes_compared: int
    lost: int
    wrong: int
    refusals: dict[str, int]
    errors: dict[str, int]
    examples: list[str]
    recovery: dict[str, dict[str, float]]  # by kind of fault: count, p50, p95, max (seconds)
    restarts: dict[str, int]  # of Triton, by reason
    drains: dict[str, float]  # count, p50, p95, max (seconds)
    failed_drains: int  # that ended with another status than 0
    slots_left: int
    shared_memory_left: int
    cores: int

    @property
    def good(self) -> bool:
        nothing_left = self.slots_left == self.shared_memory_left == 0
        whole = self.lost == self.wrong == self.failed_drains == 0 and self.answered > 0
        return whole and nothing_left and self.faults == self.planned

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self) | {"good": self.good}, indent=2, ensure_ascii=False) + "\n")


def summary(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    summary = {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95), "max": max(seconds)}
    return {"count": len(seconds)} | {name: round(value, 3) for name, value in summary.items()}


def table(report: dict[str, Any]) -> str:
    """Markdown, of a report's JSON."""
    lines = ["| fault | times | every stream goes on after, p50 | p95 | longest |", "| --- | --- | --- | --- | --- |"]
    for kind, count in report["faults"].items():
        times = report["recovery"].get(kind, {"count": 0})
        cells = [f"{times[name]:.2f} s" if times["count"] else "" for name in ("p50", "p95", "max")]
        lines.append(f"| {kind} | {count} | {' | '.join(cells)} |")
    drains = report["drains"]
    facts = {
        "duration, streams at a time": f"{report['seconds'] / 60:.1f} minutes, {report['streams']} ({report['cores']} cores)",
        "requests": f"{report['requests']:,}",
        "answered in full": f"{report['answered']:,}",
        "left by their clients": f"{report['left']:,}",
        "texts compared": f"{report['texts_compared']:,} ({report['bytes_compared'] / 2**20:.1f} MiB)",
        "**requests lost**": f"**{report['lost']}**",
        "**texts that were wrong**": f"**{report['wrong']}**",
        "refusals, each asked again": f"{sum(report['refusals'].values()):,}",
        "restarts of Triton": _counts(report["restarts"]),
        "a drain took, p50 and p95": f"{drains['p50']:.1f} s, {drains['p95']:.1f} s" if drains["count"] else "",
        "slots and files in /dev/shm left at the end": f"{report['slots_left']}, {report['shared_memory_left']}",
    }
    lines += ["", "| the run | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in counts.items()) or "none"
