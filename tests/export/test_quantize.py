"""Each kind of linear layer, alone in a graph, against the product in float64."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from export.onnx_writer import OnnxWriter
from export.quantize import BLOCK, BlockInt4, BlockInt8, Dense, Embedding, Linear, RowInt8, quantize_int4, quantize_int8

# Relative error (rms) of a product of normal weights and inputs: half a step of each rounding, uniform, over the blocks'
# largest values.
LINEARS: dict[str, tuple[Linear, float]] = {
    "fp32": (Dense(), 1e-6),
    "8-bit blocks": (BlockInt8(), 0.012),
    "4-bit blocks": (BlockInt4(), 0.09),
    "rows": (RowInt8(), 0.03),
}
ROWS, COLUMNS, OUTPUTS = 7, 96, 40


@pytest.fixture(params=LINEARS, ids=str)
def kind(request: pytest.FixtureRequest) -> tuple[Linear, float]:
    return LINEARS[request.param]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(path: Path, linear: Linear, weight: np.ndarray, bias: np.ndarray | None) -> onnxruntime.InferenceSession:
    with OnnxWriter(path) as graph:
        graph.input("x", np.float32, ["rows", weight.shape[1]])
        output = linear.write(graph, "x", "layer", weight, bias)
        graph.node("Identity", [output], ["y"])
        graph.output("y", np.float32, ["rows", len(weight)])
        graph.save("layer")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    return session.run(None, {"x": x})[0]


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(got - expected).sum() / np.square(expected).sum()))


@pytest.mark.parametrize("columns", [COLUMNS, 80])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_is_its_product_within_its_precision(
    tmp_path: Path, kind: tuple[Linear, float], columns: int, has_bias: bool
) -> None:
    linear, bound = kind
    x, weight, bias = normal(ROWS, columns), normal(OUTPUTS, columns, seed=1), normal(OUTPUTS, seed=2) if has_bias else None
    expected = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
    assert relative_error(run(layer(tmp_path / "layer.onnx", linear, weight, bias), x), expected) < bound


def test_a_rows_result_does_not_depend_on_its_neighbours(tmp_path: Path, kind: tuple[Linear, float]) -> None:
    session = layer(tmp_path / "layer.onnx", kind[0], normal(OUTPUTS, COLUMNS, seed=1), None)
    x = normal(ROWS, COLUMNS)
    among_outliers = x.copy()
    among_outliers[1:] *= 1000
    np.testing.assert_array_equal(run(session, x)[0], run(session, among_outliers)[0])


def test_a_row_of_zeros_gives_the_bias(tmp_path: Path, kind: tuple[Linear, float]) -> None:
    bias = normal(OUTPUTS, seed=2)
    session = layer(tmp_path / "layer.onnx", kind[0], normal(OUTPUTS, COLUMNS, seed=1), bias)
    np.testing.assert_allclose(run(session, np.zeros((1, COLUMNS), np.float32))[0], bias, atol=1e-6)


def test_weights_of_zero_stay_zero(tmp_path: Path, kind: tuple[Linear, float]) -> None:
    session = layer(tmp_path / "layer.onnx", kind[0], np.zeros((OUTPUTS, COLUMNS), np.float32), None)
    assert not run(session, normal(ROWS, COLUMNS)).any()


def test_the_largest_products_of_a_row_do_not_saturate(tmp_path: Path) -> None:
    # Without VNNI pairs of products meet in 16 bits: 255 * 127 * 2 would not fit.
    weight, x = np.ones((OUTPUTS, COLUMNS), np.float32), np.ones((1, COLUMNS), np.float32)
    session = layer(tmp_path / "layer.onnx", RowInt8(), weight, None)
    np.testing.assert_allclose(run(session, x), COLUMNS, rtol=1e-5)


@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_1"])
def test_four_bits_hold_exactly_what_a_gguf_of_four_bits_holds(quantization: str) -> None:
    kind = GGMLQuantizationType[quantization]
    weight = dequantize(quantize(normal(64, 4 * BLOCK) + 0.3, kind), kind)
    codes, scales, offsets = quantize_int4(weight)
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(64, 4, BLOCK).astype(np.float32)
    restored = (nibbles - 8) * scales[..., None] + offsets[..., None]
    np.testing.assert_allclose(restored.reshape(weight.shape), weight, atol=1e-6)


def test_eight_bits_hold_exactly_what_a_gguf_of_eight_bits_holds() -> None:
    kind = GGMLQuantizationType.Q8_0
    weight = dequantize(quantize(normal(64, 4 * BLOCK), kind), kind)
    codes, scales = quantize_int8(weight)
    restored = (codes.astype(np.float32) - 128) * scales[..., None]
    np.testing.assert_allclose(restored.reshape(weight.shape), weight, atol=1e-6)


@pytest.mark.parametrize(("embedding", "bound"), [(Dense(), 0.0), (BlockInt8(), 0.01)], ids=["fp32", "8-bit blocks"])
@pytest.mark.parametrize("columns", [COLUMNS, 80])
def test_an_embedding_gives_the_rows_that_were_asked_for(
    tmp_path: Path, embedding: Embedding, bound: float, columns: int
) -> None:
    weight, path = normal(50, columns), tmp_path / "embedding.onnx"
    with OnnxWriter(path) as graph:
        graph.input("ids", np.int64, ["tokens"])
        graph.node("Identity", [embedding.look_up(graph, "ids", "embedding", weight)], ["y"])
        graph.output("y", np.float32, ["tokens", columns])
        graph.save("embedding")
    ids = np.array([49, 0, 7, 7])
    rows = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"ids": ids})[0]
    assert relative_error(rows, weight[ids]) <= bound
