"""PRECISION=auto: which precision a checkpoint gets on which machine, and why."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from export import exporter, precision
from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.demonstration import demonstration_checkpoint
from export.exporter import ExportSettings, export
from export.quantize import BLOCK, keeps_in_int4
from export.verify import Bounds, VerificationFailed
from tests.export import samples

PLAIN, VNNI = "fpu sse2 avx2 avx512f", "fpu sse2 avx2 avx512f avx512_vnni"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which its processor's instructions are named: without VNNI."""
    monkeypatch.delenv("TIDEGATE_DEVICE", raising=False)
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    named(tmp_path / "cpuinfo", PLAIN)
    return tmp_path / "cpuinfo"


def named(machine: Path, flags: str) -> None:
    machine.write_text(f"processor\t: 0\nmodel name\t: A processor\nflags\t\t: {flags}\n")


@pytest.fixture(scope="module")
def four_bits() -> Checkpoint:
    """Q4_1."""
    return read(demonstration_checkpoint())


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    samples.nanogpt(tmp_path / "floats.pt")
    return tmp_path / "floats.pt"


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1])
def test_weights_of_four_bits_are_known_by_their_values(kind: gguf.GGMLQuantizationType) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 4 * BLOCK)).astype(np.float32)
    assert not keeps_in_int4(weight)
    stored = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    assert keeps_in_int4(stored)
    stored[7, 9] *= 1.01
    assert not keeps_in_int4(stored)


def test_weights_that_blocks_do_not_divide_or_that_are_no_numbers_are_not_of_four_bits() -> None:
    assert not keeps_in_int4(np.zeros((4, BLOCK + 1), np.float32))
    assert not keeps_in_int4(np.full((4, BLOCK), np.nan, np.float32))


def test_a_checkpoint_of_four_bits_keeps_them_where_eight_are_no_faster(four_bits: Checkpoint, machine: Path) -> None:
    assert precision.choose(four_bits)[0] == "int4"
    named(machine, VNNI)
    assert precision.choose(four_bits)[0] == "int8"


def test_other_checkpoints_get_eight_bits_on_any_cpu(floats: Path, machine: Path) -> None:
    checkpoint = read(floats)
    assert precision.choose(checkpoint)[0] == "int8"
    named(machine, VNNI)
    assert precision.choose(checkpoint)[0] == "int8"


def test_a_gpu_gets_half_precision(floats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_DEVICE", "cuda")
    assert precision.choose(read(floats))[0] == "fp16"


@pytest.mark.slow
def test_the_choice_is_printed_with_its_reason_kept_in_the_card_and_made_again_elsewhere(
    floats: Path, tmp_path: Path, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ExportSettings(floats, tmp_path / "repository", "floats", "auto")
    assert export(settings) and not export(settings)
    assert "Precision: int8, because 4 bits would lose too much" in capsys.readouterr().err
    card = json.loads((tmp_path / "repository" / "floats" / "1" / "model_card.json").read_text())
    assert card["parameters"]["precision"] == "int8"
    before = settings.fingerprint()
    named(machine, VNNI)
    assert settings.fingerprint() != before


@pytest.mark.slow
def test_a_model_that_8_bits_change_too_much_is_exported_in_fp32(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(exporter.BOUNDS, "int8", Bounds(noise=1e-9, kl=1.0, top1=0.0))
    settings = ExportSettings(floats, tmp_path / "models", "tiny", "auto")
    assert export(settings)
    card = json.loads((tmp_path / "models" / "tiny" / "1" / "model_card.json").read_text())
    assert card["parameters"]["precision"] == "fp32"
    assert "int8 would change this model too much (the logits' noise is" in capfd.readouterr().err
    with pytest.raises(VerificationFailed, match="in int8 it differs .* the logits' noise .*; PRECISION=fp32 is more exact"):
        export(replace(settings, precision="int8"))
