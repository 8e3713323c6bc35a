"""python -m bench.family_figures: every family of checkpoints in every precision, against its reference.

The models are small (width 256, 4 layers) and have random weights, made as the tests make them, so the figures show the
rounding alone; docs/export.md has those of trained models. Each family is read, written and compared in a process of its own.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from export.checkpoints import read
from export.checkpoints.huggingface import FAMILIES
from export.graph import write_graph
from export.quantize import PRECISIONS
from export.verify import verify
from tests.export import nanochat_files
from tests.export.transformers_models import saved

SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 256}
MORE: dict[str, dict[str, Any]] = {  # where transformers' own defaults do not fit these sizes
    "codegen": {"rotary_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 32},
    "helium": {"head_dim": 32, "num_key_value_heads": 8},
    "ministral": {"head_dim": 32},
}
OTHERS = {"minimind", "Tiny-K"}  # model types that transformers does not know
Make = Callable[[Path], Path]
HEADER = "| family | parameters | " + " | ".join(f"{precision}: KL, top-1" for precision in PRECISIONS) + " | s | peak memory |"


def main() -> None:
    about = __doc__.partition(": ")[2].split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.family_figures", description=about)
    parser.add_argument("--only", default="", help="only families whose name holds this")
    parser.add_argument("--family", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.family:
        print(_row(options.family))
        return
    print(HEADER + "\n" + "| --- " * (len(PRECISIONS) + 4) + "|", flush=True)
    for family in (one for one in makers() if options.only in one):
        command = [sys.executable, "-m", "bench.family_figures", "--family", family]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stdout.strip() or f"| {family} | {done.stderr.strip().splitlines()[-1]} |"
        print(said, flush=True)


def makers() -> dict[str, Make]:
    """What writes a checkpoint of each family into a directory, and returns the path that a user would name."""
    kinds: dict[str, Make] = {kind: partial(_huggingface, kind) for kind in FAMILIES if kind not in OTHERS}
    return kinds | {"nanochat, its own files": _nanochat}


def _huggingface(kind: str, directory: Path) -> Path:
    saved(kind, directory, **SIZES, **MORE.get(kind, {}))
    return directory


def _nanochat(directory: Path) -> Path:
    return nanochat_files.base_directory(directory, n_layer=4, n_head=4, n_kv_head=4, n_embd=256)


def _row(family: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        began = time.perf_counter()
        checkpoint = read(makers()[family](directory / "checkpoint"))
        cells = []
        for precision, layers in PRECISIONS.items():
            model = directory / f"{precision}.onnx"
            shape, context = checkpoint.architecture, min(checkpoint.architecture.context_length, 256)
            write_graph(
                model,
                shape,
                checkpoint.weights,
                layers,
                context_length=context,
                candidates=64,
                query_seqlens=precision != "fp16",
            )
            found = verify(model, checkpoint, context, lambda done, total: None).against_checkpoint
            cells.append(f"{found.kl:.1g}, {found.top1:.3f}")
        seconds = time.perf_counter() - began
        parameters = sum(weight.size for weight in checkpoint.weights.values())
    return f"| {family} | {parameters / 1e6:.1f}M | {' | '.join(cells)} | {seconds:.0f} | {_peak():.2f} GiB |"


def _peak() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**20 if found else 0.0


if __name__ == "__main__":
    main()
