"""The dashboard's panels as data: what each asks Prometheus, and its position."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from testing import ROOT

DASHBOARD = ROOT / "monitoring" / "grafana" / "dashboards" / "tidegate.json"


@dataclass(frozen=True)
class Panel:
    kind: str  # "row", "stat" or "timeseries"
    title: str
    position: dict[str, int]  # x, y, w, h; the dashboard is 24 wide
    expressions: list[str]  # without Grafana's variables


def panels(rate_interval: str) -> Iterator[Panel]:
    """Of all models; ``rate_interval`` is what Grafana would compute from the scrape interval."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        expressions = [
            target["expr"].replace("$model", ".*").replace("$__rate_interval", rate_interval)
            for target in panel.get("targets", [])
        ]
        yield Panel(panel["type"], panel["title"], panel["gridPos"], expressions)
