"""The plots of bench/RESULTS.md."""

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare_engines import OURS
from bench.report import Report
from testing.figures import percentile

SIZE = (7.0, 3.6)  # inches
OWN_COLOUR = "#0b7a75"
COLOURS = ("#c05746", "#6d597a", "#b08900", "#4f6d7a", "#8a8a8a", "#3d5a80", "#a44a3f", "#606c38")


def draw(report: Report, directory: Path) -> list[tuple[str, str]]:
    """Writes PNGs; (file name, caption) of each. What was not measured is not drawn."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, caption, plot in (
        ("throughput.png", "Tokens a second through HTTP, by clients", throughput),
        ("first-token.png", "Time to the first token, by clients: p50, and p95 dashed", first_token),
        ("between-tokens.png", "Time between tokens, by clients: p50, and p95 dashed", between_tokens),
        ("context.png", "A decode step of our decoder, by tokens already there", context),
        ("floor.png", "One stream, as a part of what memory allows with 8-bit weights", floor),
    ):
        figure, axes = pyplot.subplots(figsize=SIZE)
        if plot(report, axes):
            _save(figure, directory / name)
            drawn.append((name, caption))
        pyplot.close(figure)
    return drawn


def throughput(report: Report, axes: Axes) -> bool:
    for name, by_clients in report.loads.items():
        rates = [statistics.median(load.tokens_per_second for load in loads) for loads in by_clients.values()]
        axes.plot(list(by_clients), rates, marker="o", label=name, color=_colour(report, name))
    return _by_clients(report, axes, "tokens a second")


def first_token(report: Report, axes: Axes) -> bool:
    return _percentiles(report, axes, "first", "seconds to the first token")


def between_tokens(report: Report, axes: Axes) -> bool:
    return _percentiles(report, axes, "between", "seconds between tokens")


def _percentiles(report: Report, axes: Axes, field: str, label: str) -> bool:
    for name, by_clients in report.loads.items():
        for share, style in ((0.5, "-"), (0.95, "--")):
            points = {
                clients: percentile(values, share)
                for clients, loads in by_clients.items()
                if (values := [value for load in loads for value in getattr(load, field)])
            }
            shown = name if style == "-" else None
            axes.plot(list(points), list(points.values()), style, marker="o", ms=3, label=shown, color=_colour(report, name))
    axes.set_yscale("log")
    return _by_clients(report, axes, label)


def _by_clients(report: Report, axes: Axes, label: str) -> bool:
    if not report.loads:
        return False
    axes.set_xscale("log", base=2)
    ticks = sorted({clients for by_clients in report.loads.values() for clients in by_clients})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("clients")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return True


def context(report: Report, axes: Axes) -> bool:
    if not report.context:
        return False
    for streams, by_past in report.context.items():
        axes.plot(list(by_past), [1000 * seconds for seconds in by_past.values()], marker="o", label=f"{streams} streams")
    axes.set_xlabel("tokens already there")
    axes.set_ylabel("ms a step")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return True


def floor(report: Report, axes: Axes) -> bool:
    rates = {name: statistics.median(by_streams[1]) for name, by_streams in report.decode.items() if 1 in by_streams}
    if not rates or not report.floor:
        return False
    names = sorted(rates, key=lambda name: rates[name])
    colours = [OWN_COLOUR if name.startswith(OURS.split()[0]) else COLOURS[4] for name in names]
    axes.barh(names, [rates[name] / report.floor for name in names], color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("of the tokens a second that reading 8-bit weights once a token allows")
    return True


def _colour(report: Report, name: str) -> str:
    return OWN_COLOUR if name == "Tidegate" else COLOURS[list(report.loads).index(name) % len(COLOURS)]


def _save(figure: Figure, path: Path) -> None:
    for side in ("top", "right"):
        figure.axes[0].spines[side].set_visible(False)
    figure.axes[0].grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
