"""Where a model computes: what is asked for is what is used, or the model is refused with a sentence."""

import json
import mmap
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest

from backends.onnx_decoder import decoder, gpu
from backends.onnx_decoder.decoder import Decoder, Row
from backends.onnx_decoder.device import Cpu
from serve.triton_server import TritonError
from testing.triton import Triton
from tests.conftest import TINY, gateway_process, version_directory
from tests.logits import assert_same

without_gpu = pytest.mark.skipif(gpu.present(), reason="what a machine without a GPU says")
TOKENS = np.arange(100, 140, dtype=np.int32)


class Elsewhere(Cpu):
    """With `bind_copies`, inputs get there as they get to a GPU."""

    copies_inputs = True


def bind_copies(binding: decoder._Binding, names: Iterable[str]) -> None:
    """As ONNX Runtime binds inputs for a GPU: what is written to them later stays unseen."""
    for name in set(names) & set(binding.inputs):
        copy = binding.inputs[name].copy()
        COPIES.append(copy)  # for as long as it is bound
        binding.io.bind_input(name, "cpu", 0, copy.dtype, copy.shape, copy.ctypes.data)


COPIES: list[np.ndarray] = []


def text(model: Decoder, slot: int, count: int) -> list[int]:
    """Greedy."""
    (found,) = model.run([Row(slot, 0, TOKENS)])
    tokens = [int(found.candidate_id[-1, 0])]
    while len(tokens) < count:
        (found,) = model.run([Row(slot, len(TOKENS) + len(tokens) - 1, np.array(tokens[-1:], np.int32))])
        tokens.append(int(found.candidate_id[0, 0]))
    return tokens


@pytest.fixture(scope="module")
def model(model_repository: Path) -> Path:
    return version_directory(model_repository, TINY) / "model.onnx"


def test_a_device_that_copies_its_inputs_gets_those_of_every_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared bindings would give it those of the first step for ever."""
    here = Decoder(model, slots=4, context_length=128)
    (whole,) = here.run([Row(2, 0, np.concatenate([TOKENS, TOKENS[:3]]), 3, full_logits=True)])
    expected = text(here, 1, 20)
    monkeypatch.setattr(decoder, "_bind_inputs", bind_copies)
    elsewhere = Decoder(model, slots=4, context_length=128, device=Elsewhere())
    assert text(elsewhere, 1, 20) == expected
    elsewhere.copy_prefix(1, 3, len(TOKENS))
    (copied,) = elsewhere.run([Row(3, len(TOKENS), TOKENS[:3], 3, full_logits=True)])
    assert copied.logits is not None and whole.logits is not None
    assert_same(copied.logits, whole.logits)


def test_a_growing_pool_computes_the_same_and_takes_memory_only_for_what_it_holds(model: Path) -> None:
    expected = text(Decoder(model, slots=2, context_length=128), 1, 20)
    before = resident_bytes()
    growing = Decoder(model, slots=20_000, context_length=128, device=Cpu(growing=True))
    assert text(growing, 19_000, 20) == expected
    assert growing.slots * growing.slot_bytes > 20 * (resident_bytes() - before)


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_provider_that_onnx_runtime_leaves_out_in_silence_is_an_error(model: Path) -> None:
    class Missing(Elsewhere):
        providers = ("CUDAExecutionProvider", "CPUExecutionProvider")  # type: ignore[assignment]

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has it")
    with pytest.raises(ValueError, match="could not start its CUDAExecutionProvider"):
        Decoder(model, slots=1, context_length=128, device=Missing())


@without_gpu
def test_what_keeps_a_model_from_the_gpu_is_said() -> None:
    assert gpu.why_not("int8") == "this export is int8, and attention on a GPU takes fp16: export it with --precision fp16"
    assert "has no CUDA provider: install what requirements/triton-gpu.lock names" in str(gpu.why_not("fp16"))


@pytest.fixture
def half_precision(model_repository: Path, tmp_path: Path) -> Path:
    """A repository whose one model says that it is fp16."""
    repository = tmp_path / "models"
    shutil.copytree(model_repository / TINY, repository / TINY)
    card = version_directory(repository, TINY) / "model_card.json"
    document = json.loads(card.read_text("utf-8"))
    document["parameters"]["precision"] = "fp16"
    card.write_text(json.dumps(document))
    return repository


@without_gpu
@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda", "it was asked to run on a GPU, and cannot: onnxruntime .* has no CUDA provider"),
        ("gpu", "TIDEGATE_DEVICE is 'gpu', must be auto, cuda or cpu"),
    ],
)
def test_a_model_that_cannot_run_where_it_was_asked_to_is_refused(
    half_precision: Path, tmp_path: Path, device: str, reason: str
) -> None:
    with (
        pytest.raises(TritonError, match=reason),
        Triton(half_precision, tmp_path / "run", [TINY], TIDEGATE_DEVICE=device),
    ):
        pass


@pytest.fixture
def watched(model_repository: Path, tmp_path: Path) -> Iterator[Triton]:
    with Triton(model_repository, tmp_path / "run", [TINY], slots=2, metrics=True) as triton:
        yield triton


@without_gpu
def test_the_device_in_use_is_logged_measured_and_told_by_health(watched: Triton, tmp_path: Path) -> None:
    assert f"{TINY}: 2 slots of 1024 tokens on cpu" in watched.log.read_text()
    (line,) = [line for line in watched.metrics().splitlines() if line.startswith("tidegate_backend_device_info{")]
    assert 'device="cpu"' in line and line.endswith(" 1")
    with gateway_process(watched.grpc_address, tmp_path / "log") as address:
        assert httpx.get(f"{address}/health").json()["data"]["models"][TINY]["devices"] == ["cpu"]
