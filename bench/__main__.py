"""python -m bench: everything side by side on this machine. Writes bench/RESULTS.md and its plots.

    make bench            all of it, in under 40 minutes, installations included
    make bench QUICK=1    the same in under 6: one round, half as long texts

Not in a quick run: int8-row and int4, the plain loop as an engine, all but one kind of weights of most peers; other numbers of
clients than 1, 8 and 32; Flask in the sweep; the load tool at llama.cpp's server; drafts and context at more than 8 streams.
A quick run installs only peers that come as wheels and need no conversion (OpenVINO GenAI, transformers); the others take part
in it where a full run has installed them.
"""

import argparse
import sys
from pathlib import Path

from bench import compare_engines, compare_servers, load_tool, machine, own_figures, plots, results
from bench.environments import ALL, OPENVINO_GENAI, ROOT, RUN, THREADS, TRANSFORMERS, PeerError
from bench.lineup import OURS, QUICK_OURS, SETTINGS, our_model
from bench.report import Report

TARGET = ROOT / "bench" / "RESULTS.md"
STEPS = ("engines", "servers", "tidegate", "tool")


def install(report: Report) -> set[str]:
    """The names of the environments that are there; the failures of the others are in the report."""
    there = set()
    for environment in ALL:
        if report.quick and environment not in (OPENVINO_GENAI, TRANSFORMERS) and not environment.is_installed:
            report.failures[environment.name] = "left out of a quick run, since no full run has installed it"
            continue
        try:
            report.say(f"  {environment.name}: {'installed' if environment.install() else 'there already'}")
            there.add(environment.name)
        except (PeerError, OSError) as error:
            report.failures[environment.name] = str(error)
            report.say(f"  {environment.name} cannot be installed: {error}")
    return there


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=STEPS, nargs="+", default=STEPS, help="these steps alone")
    parser.add_argument(
        "--output", type=Path, default=TARGET, help="the plots go into a folder beside it (default: %(default)s)"
    )
    options = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    report, there = Report(options.quick), set()
    about = machine.described() | {"memory reads": f"{machine.read_bandwidth(THREADS) / 1e9:.1f} GB/s with {THREADS} threads"}
    with report.step("Installing the peers"):
        there = install(report)
    with report.step("Exporting our models"):
        for precision in QUICK_OURS if options.quick else OURS:
            our_model(precision)
    if "engines" in options.only:
        with report.step("Engines"):
            chosen = [one for one in SETTINGS if one.is_ours or (one.environment and one.environment.name in there)]
            compare_engines.compare(report, [one for one in chosen if one.quick or not options.quick])
    if "servers" in options.only:
        with report.step("Servers"):
            compare_servers.compare(report)
    if "tidegate" in options.only:
        with report.step("Our own figures"):
            own_figures.measure(report)
    if "tool" in options.only:
        with report.step("The public load tool"):
            load_tool.compare(report)
    images = options.output.parent / "results"
    results.write(report, about, plots.draw(report, images), options.output, images)
    report.say(f"{options.output} is written")
    sys.exit(0)


if __name__ == "__main__":
    main()
