"""The dashboard's panels as data: what each asks Prometheus, and where it stands."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "tidegate.json"


@dataclass(frozen=True)
class Target:
    expression: str  # without Grafana's variables
    legend: str  # with the labels that it names still in it


@dataclass(frozen=True)
class Panel:
    kind: str  # "row", "stat" or "timeseries"
    title: str
    unit: str
    place: dict[str, int]  # x, y, w, h; the dashboard is 24 wide
    targets: list[Target]


def panels(rate_interval: str, dashboard: Path = DASHBOARD) -> Iterator[Panel]:
    """Of all models; ``rate_interval`` is what Grafana would compute from the scrape interval."""
    for panel in json.loads(dashboard.read_text("utf-8"))["panels"]:
        targets = [
            Target(_without_variables(target["expr"], rate_interval), target["legendFormat"])
            for target in panel.get("targets", [])
        ]
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        yield Panel(panel["type"], panel["title"], unit, panel["gridPos"], targets)


def _without_variables(expression: str, rate_interval: str) -> str:
    return expression.replace("$model", ".*").replace("$__rate_interval", rate_interval)


def legend_of(target: Target, labels: dict[str, Any]) -> str:
    text = target.legend
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", str(value))
    return text
