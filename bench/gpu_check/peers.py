"""What is measured beside the whole stack: our decoder alone, transformers with a static cache, and the loop that computes the
whole sequence again for each token. Each is a process that speaks bench/engines/protocol.py."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.engine import Engine
from bench.environments import THREADS
from bench.gpu_check.models import Candidate
from bench.gpu_check.plan import Task
from bench.gpu_check.report import ALONE, RECOMPUTE, STATIC

CONTEXT = 512  # tokens of a slot of the decoder alone


def decoder_alone(task: Task, candidate: Candidate, slots: int) -> Engine:
    """Ours without Triton, gateway and sampling: greedy."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "bench.engines.tidegate",
        candidate.version / "model.onnx",
        "--device",
        task.device,
    ]
    return Engine(ALONE, [*command, "--slots", str(slots), "--context", str(CONTEXT)])


def reference(task: Task, candidate: Candidate) -> Engine:
    """transformers in fp32 on the CPU."""
    return Engine("reference", _transformers(task, candidate, "float32", "cache", "cpu"))


def peer(task: Task, candidate: Candidate, name: str) -> Engine:
    mode = {STATIC: "static", RECOMPUTE: "recompute"}[name]
    dtype = "float16" if task.device == "cuda" else "float32"
    return Engine(name, _transformers(task, candidate, dtype, mode, task.device))


def _transformers(task: Task, candidate: Candidate, dtype: str, mode: str, device: str) -> Sequence[str | Path]:
    # Our own packages are none of theirs: the interpreter may be another version of Python.
    clean = ["env", "-u", "PYTHONPATH", "-u", "PYTHONHOME", "HF_HUB_OFFLINE=1", task.peers_python]
    options: list[str | Path] = [candidate.checkpoint.resolve(), dtype, str(THREADS), mode, "--device", device]
    return [*clean, "-m", "bench.engines.transformers", *options]
