"""A graph that does not compute what its checkpoint does is refused, in every precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.checkpoints.rotary import rotary
from export.graph import write_graph
from export.quantize import PRECISIONS
from export.verify import BOUNDS, WINDOWS, Comparison, Report, VerificationFailed, text_windows, verify
from tests.export import samples

CONTEXT = 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("llama")
    samples.hf_llama(directory)
    return read(directory)


def report_on(path: Path, exported: Checkpoint, original: Checkpoint, precision: str, context_length: int = CONTEXT) -> Report:
    write_graph(
        path,
        exported.architecture,
        exported.weights,
        PRECISIONS[precision],
        context_length=context_length,
        candidates=64,
        query_seqlens=True,
    )
    return verify(path, original, context_length, lambda done, total: None)


def changed(checkpoint: Checkpoint, name: str, array: np.ndarray) -> Checkpoint:
    return replace(checkpoint, weights={**checkpoint.weights, name: array})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_faithful_graph_is_within_its_bounds(tmp_path: Path, checkpoint: Checkpoint, precision: str) -> None:
    report = report_on(tmp_path / "model.onnx", checkpoint, checkpoint, precision)
    report.check(BOUNDS[precision])
    assert report.against_checkpoint.positions == sum(min(length, CONTEXT) for length in WINDOWS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_with_one_foreign_matrix_is_refused(tmp_path: Path, checkpoint: Checkpoint, precision: str) -> None:
    name = "layers.1.attention_out.weight"
    wrong = changed(checkpoint, name, np.roll(checkpoint.weights[name], 1, axis=0))
    with pytest.raises(VerificationFailed, match="at most"):
        report_on(tmp_path / "model.onnx", wrong, checkpoint, precision).check(BOUNDS[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_graph_with_swapped_norms_is_refused(tmp_path: Path, checkpoint: Checkpoint, precision: str) -> None:
    wrong = changed(checkpoint, "layers.0.mlp_norm.weight", checkpoint.weights["layers.0.attention_norm.weight"])
    with pytest.raises(VerificationFailed):
        report_on(tmp_path / "model.onnx", wrong, checkpoint, precision).check(BOUNDS[precision])


def test_bytes_changed_on_disk_are_noticed_in_fp32(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.onnx"
    report_on(path, checkpoint, checkpoint, "fp32").check(BOUNDS["fp32"])
    data = path.with_name("model.onnx.data")
    weights = np.fromfile(data, np.float32)
    middle = len(weights) // 2
    weights[middle : middle + 512] += 0.1
    weights.tofile(data)
    with pytest.raises(VerificationFailed):
        verify(path, checkpoint, CONTEXT, lambda done, total: None).check(BOUNDS["fp32"])


def test_a_wrong_rotary_base_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    shape = checkpoint.architecture
    wrong = replace(checkpoint, architecture=replace(shape, rotary=(rotary(shape.head_dim, 500.0),)))
    with pytest.raises(VerificationFailed):
        report_on(tmp_path / "model.onnx", wrong, checkpoint, "fp32").check(BOUNDS["fp32"])


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    wrong = changed(checkpoint, "final_norm.weight", checkpoint.weights["final_norm.weight"] * np.float32("nan"))
    with pytest.raises(VerificationFailed):
        report_on(tmp_path / "model.onnx", wrong, checkpoint, "int8").check(BOUNDS["int8"])


def test_a_context_shorter_than_the_text_is_verified_to_its_end(tmp_path: Path, checkpoint: Checkpoint) -> None:
    report = report_on(tmp_path / "model.onnx", checkpoint, checkpoint, "fp32", context_length=16)
    report.check(BOUNDS["fp32"])
    assert report.against_checkpoint.positions == 16 * len(WINDOWS)


def test_the_text_holds_only_what_a_tokenizer_of_characters_knows(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt", meta="abcdefghi ")
    checkpoint = read(tmp_path / "ckpt.pt")
    windows = text_windows(checkpoint, CONTEXT)
    text = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json).decode(np.concatenate(windows).tolist())
    assert set(text) == set("abcdefghi ")
    assert [len(window) for window in windows] == [min(length, CONTEXT) for length in WINDOWS]


def test_a_comparison_measures_what_it_says() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]], np.float32))
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.4, 0.4]], np.float32))
    comparison = Comparison()
    comparison.add(reference[:1], other[:1])
    comparison.add(reference[1:], other[1:])
    assert comparison.kl == pytest.approx((0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2, abs=1e-6)
    assert comparison.top1 == 0.5
    assert comparison.largest == pytest.approx(np.log(2), abs=1e-6)
    shifted = Comparison()
    shifted.add(reference, reference + 5)  # a constant changes no probability
    assert shifted.noise == pytest.approx(0, abs=1e-6) and shifted.kl == pytest.approx(0, abs=1e-6)
