"""A picture of the dashboard from what a Prometheus has seen: for documents, and for whoever has no Grafana at hand.

    python -m monitoring.render --prometheus http://127.0.0.1:9090 --minutes 10 --output dashboard.png

It reads the dashboard that Grafana reads, asks what Grafana would ask, and draws the panels where they stand.
"""

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from monitoring.dashboard import Panel, legend_of, panels

POINTS = 240  # of a line
UNIT_HEIGHT = 0.36  # inches of one row of the dashboard's grid
WIDTH, HEIGHT_OF_TITLE = 18.0, 0.7
BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
Series = tuple[str, list[tuple[float, float]]]  # legend, points


class Prometheus:
    """What one has seen from ``begin`` to ``end``, seconds since 1970."""

    def __init__(self, url: str, begin: float, end: float) -> None:
        self._url, self.begin, self.end = url, begin, end

    def series(self, panel: Panel) -> list[Series]:
        found = []
        for target in panel.targets:
            for result in self._range(target.expression):
                points = [(float(at), float(value)) for at, value in result["values"] if math.isfinite(float(value))]
                if points:
                    found.append((legend_of(target, result["metric"]), points))
        return found

    def _range(self, expression: str) -> list[dict[str, Any]]:
        asked = {"query": expression, "start": self.begin, "end": self.end, "step": (self.end - self.begin) / POINTS}
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(asked)}", timeout=30) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


def render(prometheus: Prometheus, rate_interval: str, output: Path, title: str) -> dict[str, int]:
    """``rate_interval``: Grafana's is four times the scrape interval. Returns how many lines each panel has."""
    shown = list(panels(rate_interval))
    rows = max(panel.place["y"] + panel.place["h"] for panel in shown)
    height = rows * UNIT_HEIGHT + HEIGHT_OF_TITLE
    figure = Figure(figsize=(WIDTH, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.4 / height, title, color=TEXT, fontsize=14, weight="bold")
    drawn = {}
    for panel in shown:
        x, y, w, h = (panel.place[name] for name in ("x", "y", "w", "h"))
        top = (HEIGHT_OF_TITLE + y * UNIT_HEIGHT) / height
        if panel.kind == "row":
            figure.text(0.01, 1 - top - 0.8 * UNIT_HEIGHT / height, panel.title, color=TEXT, fontsize=11)
            continue
        box = (x / 24 + 0.004, 1 - top - h * UNIT_HEIGHT / height + 0.001, w / 24 - 0.008, h * UNIT_HEIGHT / height - 0.002)
        series = prometheus.series(panel)
        _frame(figure.add_axes(box), panel.title)
        if panel.kind == "stat":
            figure.text(box[0] + box[2] / 2, box[1] + box[3] * 0.3, _last(panel, series), **_figure_style())
        else:
            inner = (box[0] + 0.034, box[1] + box[3] * 0.24, box[2] - 0.042, box[3] * 0.62)
            _draw(figure.add_axes(inner), panel, series, prometheus.begin, prometheus.end)
        drawn[panel.title] = len(series)
    figure.savefig(output, dpi=80, facecolor=BACKGROUND)
    return drawn


def _frame(axes: Axes, title: str) -> None:
    axes.set_facecolor(PANEL)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#2c3235")
    axes.set_title(title, loc="left", color=TEXT, fontsize=9, y=1, pad=-13, x=0.012)


def _draw(axes: Axes, panel: Panel, series: list[Series], begin: float, end: float) -> None:
    axes.set_facecolor(PANEL)
    for legend, points in series:
        times, values = zip(*_with_gaps(points), strict=True)
        axes.plot(date2num([datetime.fromtimestamp(at) for at in times]), values, lw=1.2, label=legend)
    if not series:
        axes.text(0.5, 0.5, "No data", color=FAINT, ha="center", va="center", transform=axes.transAxes)
    axes.set_xlim(*date2num([datetime.fromtimestamp(begin), datetime.fromtimestamp(end)]))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, panel.unit)))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M" if end - begin > 600 else "%H:%M:%S"))
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=6))
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.grid(color="#2c3235", lw=0.5)
    axes.set_frame_on(False)
    if series:
        columns = max(1, min(len(series), 105 // (6 + max(len(legend) for legend, _ in series))))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=columns, fontsize=7, frameon=False, labelcolor=TEXT)


def _with_gaps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line ends where nothing was known: no value stands between points that are not neighbours."""
    step = min((after - at for (at, _), (after, _) in pairwise(points)), default=0.0)
    parted = [points[0]]
    for (before, _), point in pairwise(points):
        if point[0] - before > 1.5 * step:
            parted.append((before + step, math.nan))
        parted.append(point)
    return parted


def _figure_style() -> dict[str, Any]:
    return {"color": "#73bf69", "fontsize": 20, "weight": "bold", "ha": "center"}


def _last(panel: Panel, series: list[Series]) -> str:
    return formatted(series[0][1][-1][1], panel.unit) if series else "No data"


def formatted(value: float, unit: str) -> str:
    """As Grafana writes the units that the dashboard uses."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    return f"{value:.4g}" + {"reqps": " req/s"}.get(unit, "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring.render")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate-interval", default="20s", help="four times the scrape interval, as in Grafana")
    parser.add_argument("--output", type=Path, default=Path("dashboard.png"))
    asked = parser.parse_args()
    now = time.time()
    source = Prometheus(asked.prometheus, now - 60 * asked.minutes, now)
    render(source, asked.rate_interval, asked.output, f"Tidegate   {datetime.now():%Y-%m-%d %H:%M}")


if __name__ == "__main__":
    main()
