"""python -m tests.fuzz: the whole count of cases, with what came of them. Ends with status 1 at the first defect."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from tests.fuzz import checkpoint_fuzz, wire_fuzz
from tests.fuzz.model import tiny_model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=12_000, help="of the wire, and of the checkpoints (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["wire", "checkpoints"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        if options.only != "checkpoints":
            fuzz_wire(tiny_model(Path(folder)), options.cases, options.seed)
        if options.only != "wire":
            fuzz_checkpoints(Path(folder), options.cases, options.seed)


def fuzz_wire(model: Path, cases: int, seed: int) -> None:
    began = time.monotonic()
    figures = wire_fuzz.fuzz(model, cases, seed)
    print(
        f"wire: {figures.cases} cases, {figures.refused} with something refused, for {', '.join(sorted(figures.said))}; "
        f"{figures.rows} rows run, {figures.drawn} tokens drawn by them, "
        f"{figures.compared} good sequences between them compared and the same; seed {seed}, {time.monotonic() - began:.0f} s",
        flush=True,
    )


def fuzz_checkpoints(folder: Path, cases: int, seed: int) -> None:
    total = refused = 0
    all_began = time.monotonic()
    for number, kind in enumerate(checkpoint_fuzz.KINDS):
        began = time.monotonic()
        figures = checkpoint_fuzz.fuzz(kind, -(-cases // len(checkpoint_fuzz.KINDS)), seed, folder / str(number))
        total, refused = total + figures.cases, refused + figures.refused
        print(
            f"  {kind}: {figures.cases} cases, {figures.refused} refused, the slowest took {figures.slowest:.2f} s; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.monotonic() - all_began
    print(
        f"checkpoints: {total} cases, {refused} refused; peak memory {peak:.2f} GiB; seed {seed}, {seconds:.0f} s", flush=True
    )


if __name__ == "__main__":
    main()
