"""python -m bench: everything side by side on this machine. Writes bench/RESULTS.md and its plots.

    make bench            all of it, in under an hour, installations included
    make bench QUICK=1    the same in minutes: one round, shorter windows and texts

Not in a quick run: int8-row and int4, the plain loop as an engine, all but one kind of weights of most peers; other numbers of
clients than 1, 8 and 32; Flask in the sweep; drafts and context at more than 8 streams.
A quick run installs only peers that come as wheels and need no conversion (OpenVINO GenAI, transformers); the others take part
in it where a full run has installed them. The tiny model's load comes from `wrk` (Debian: apt-get install wrk).
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import compare_engines, compare_servers, machine, own_figures, path, plots, results, tiny
from bench.environments import ALL, LLAMA_CPP, OPENVINO_GENAI, ROOT, RUN, THREADS, TRANSFORMERS, Environment, PeerError
from bench.lineup import OURS, QUICK_OURS, SETTINGS, our_model
from bench.report import Report

TARGET = ROOT / "bench" / "RESULTS.md"


def install(report: Report, environments: Sequence[Environment]) -> None:
    """What cannot be installed is named in the report."""
    for environment in environments:
        if report.quick and environment not in (OPENVINO_GENAI, TRANSFORMERS) and not environment.is_installed:
            report.failures[environment.name] = "left out of a quick run, since no full run has installed it"
            continue
        try:
            report.say(f"  {environment.name}: {'installed' if environment.install() else 'there already'}")
        except (PeerError, OSError) as error:
            report.failures[environment.name] = str(error)
            report.say(f"  {environment.name} cannot be installed: {error}")


def engines(report: Report) -> None:
    chosen = [one for one in SETTINGS if one.environment is None or one.environment.is_installed]
    compare_engines.compare(report, [one for one in chosen if one.quick or not report.quick])


STEPS: dict[str, tuple[str, Callable[[Report], None]]] = {
    "tiny": ("What the server itself allows", tiny.compare),
    "path": ("Through HTTP", path.compare),
    "engines": ("Engines", engines),
    "servers": ("Servers", compare_servers.compare),
    "own": ("Our own figures", own_figures.measure),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=STEPS, nargs="+", default=list(STEPS), help="these steps alone")
    parser.add_argument(
        "--output", type=Path, default=TARGET, help="the plots go into a folder beside it (default: %(default)s)"
    )
    options = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    report = Report(options.quick)
    about = machine.described() | {"memory reads": f"{machine.read_bandwidth(THREADS) / 1e9:.1f} GB/s with {THREADS} threads"}
    with report.step("Installing the peers"):
        install(report, ALL if {*options.only} - {"tiny", "path"} else (LLAMA_CPP,))
    with report.step("Exporting our models"):
        for precision in QUICK_OURS if options.quick else OURS:
            our_model(precision)
    for name in options.only:
        title, measure = STEPS[name]
        with report.step(title):
            measure(report)
    images = options.output.parent / "results"
    results.write(report, about, plots.draw(report, images), options.output, images)
    report.say(f"{options.output} is written")


if __name__ == "__main__":
    main()
