"""How a weight is stored and multiplied: each kind of linear layer writes itself into the graph.

No kind shares an activation scale between rows of a batch, so a sequence never depends on its neighbours.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from export.onnx_writer import OnnxWriter

LOSSLESS = 1e-5  # relative to the largest weight: how far two roundings of the same 4-bit values differ
BLOCK = 32  # inputs per scale, as in GGUF: larger blocks cost accuracy and were no faster


class Linear(Protocol):
    """A way to compute ``x @ weight.T + bias``."""

    def write(self, graph: OnnxWriter, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """Adds the layer: x [rows, in], weight fp32 [out, in], bias fp32 [out]. Returns the output [rows, out]."""


class Embedding(Protocol):
    """A way to look up rows of a matrix."""

    def look_up(self, graph: OnnxWriter, ids: str, name: str, weight: np.ndarray) -> str:
        """Adds the lookup of ``ids`` [tokens] in weight fp32 [vocabulary, width]. Returns the output [tokens, width]."""


@dataclass(frozen=True)
class Dense:
    """Weights in fp32 or rounded to fp16. A tied head and its embedding share one tensor."""

    dtype: type = np.float32

    def write(self, graph: OnnxWriter, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        inputs = [x, self._tensor(graph, name, weight)]
        if bias is not None:
            inputs.append(graph.initializer(f"{name}.bias", bias.astype(self.dtype)))
        return graph.node("Gemm", inputs, transB=1)

    def look_up(self, graph: OnnxWriter, ids: str, name: str, weight: np.ndarray) -> str:
        return graph.node("Gather", [self._tensor(graph, name, weight), ids])

    def _tensor(self, graph: OnnxWriter, name: str, weight: np.ndarray) -> str:
        return graph.initializer(f"{name}.weight", weight.astype(self.dtype, copy=False))


@dataclass(frozen=True)
class BlockInt8:
    """8-bit weights with a scale per block; activations are quantized too (accuracy_level 4), each row on its own.

    A tied head and its embedding share their bytes.
    """

    def write(self, graph: OnnxWriter, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        inputs = [x, *self._tensors(graph, name, weight)]
        if bias is not None:
            inputs += ["", "", graph.initializer(f"{name}.bias", bias)]
        return _matmul_nbits(graph, inputs, weight.shape, bits=8)

    def look_up(self, graph: OnnxWriter, ids: str, name: str, weight: np.ndarray) -> str:
        if weight.shape[1] % BLOCK:  # padded blocks cannot be read as rows
            return Dense().look_up(graph, ids, name, weight)
        codes, scales = self._tensors(graph, name, weight)
        rows = graph.alias(f"{name}.rows", codes, weight.shape)
        inputs = [rows, ids, scales]
        return graph.contrib("GatherBlockQuantized", inputs, bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=1)

    @staticmethod
    def _tensors(graph: OnnxWriter, name: str, weight: np.ndarray) -> tuple[str, str]:
        names = f"{name}.codes8", f"{name}.scales8"
        if not graph.has(names[0]):
            for part, array in zip(names, quantize_int8(weight), strict=True):
                graph.initializer(part, array)
        return names


@dataclass(frozen=True)
class BlockInt4:
    """4-bit weights with a scale and an offset per block, which represents GGUF's Q4_0 and Q4_1 exactly.

    MatMulNBits only supports integer zero points, so the offsets form a small separate matrix, multiplied by the sum of each
    block of inputs. (With integer zero points, SmolLM2's Q4_1 had a KL of 0.36 instead of 0.004.) On some CPUs a single row
    uses another kernel, whose sums differ in the last bit. ``Precision.never_alone`` avoids that, so a sequence's output is the
    same alone and in a batch.
    """

    def write(self, graph: OnnxWriter, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        columns = weight.shape[1]
        if columns % BLOCK:
            return BlockInt8().write(graph, x, name, weight, bias)
        codes, scales, offsets = quantize_int4(weight)
        inputs = [x, graph.initializer(f"{name}.codes4", codes), graph.initializer(f"{name}.scales4", scales)]
        if bias is not None:
            inputs += ["", "", graph.initializer(f"{name}.bias", bias)]
        product = _matmul_nbits(graph, inputs, weight.shape, bits=4)
        if not offsets.any():  # as in Q4_0
            return product
        in_blocks = graph.initializer(f"in_blocks_{columns}", np.array([-1, columns // BLOCK, BLOCK]))
        blocks = graph.node("Reshape", [x, in_blocks])  # onnxruntime merges duplicates for the same x
        sums = graph.node("ReduceSum", [blocks, graph.initializer("last_axis", np.array([-1]))], keepdims=0)
        return graph.node("Gemm", [sums, graph.initializer(f"{name}.offsets", offsets), product], transB=1)


@dataclass(frozen=True)
class RowInt8:
    """Integer weights with a scale per output, uint8 activations with a scale per row: the fastest for many rows.

    The activations' zero point is 128: int8 activations were five times slower in onnxruntime 1.32. Weights are limited to 7
    bits: CPUs without VNNI add pairs of products in 16 bits, where 255 * 127 * 2 would saturate and make outputs depend on the
    machine.
    """

    weight_limit: int = 63

    def write(self, graph: OnnxWriter, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        scales = np.maximum(np.abs(weight).max(axis=1), 1e-8) / self.weight_limit
        codes = np.rint(weight / scales[:, None]).astype(np.int8)
        activations, row_scale = self._quantize_rows(graph, x)
        inputs = [
            activations,
            graph.initializer(f"{name}.codes_row", codes.T),
            graph.initializer("one", np.float32(1)),
            graph.initializer(f"{name}.scales_row", scales.astype(np.float32)),
            graph.initializer("zero_point", np.uint8(128)),
        ]
        scaled = graph.node("Mul", [graph.contrib("MatMulIntegerToFloat", inputs), row_scale])
        return scaled if bias is None else graph.node("Add", [scaled, graph.initializer(f"{name}.bias", bias)])

    @staticmethod
    def _quantize_rows(graph: OnnxWriter, x: str) -> tuple[str, str]:
        """x [rows, in] as uint8 around 128, and each row's scale [rows, 1]. onnxruntime merges duplicates for the same x."""
        limit = graph.initializer("row_limit", np.float32(127))
        largest = graph.node("ReduceMax", [graph.node("Abs", [x]), graph.initializer("last_axis", np.array([-1]))], keepdims=1)
        largest = graph.node("Max", [largest, graph.initializer("tiny", np.float32(1e-9))])
        steps = graph.node("Round", [graph.node("Mul", [x, graph.node("Div", [limit, largest])])])
        shifted = graph.node("Add", [steps, graph.initializer("row_shift", np.float32(128))])
        return graph.node("Cast", [shifted], to=TensorProto.UINT8), graph.node("Div", [largest, limit])


@dataclass(frozen=True)
class Precision:
    """How the layers of a model are stored."""

    linear: Linear
    mlp_down: Linear  # its inputs, products of gate and up, have outliers that a single scale per row cannot represent
    head: Linear
    embedding: Embedding
    activations: type = np.float32  # also of the norms and the KV cache
    never_alone: bool = False  # dense layers see a single token twice


_HALF = Dense(np.float16)

PRECISIONS = {
    "fp32": Precision(Dense(), Dense(), Dense(), Dense()),
    "int8": Precision(BlockInt8(), BlockInt8(), BlockInt8(), BlockInt8()),
    "int8-row": Precision(RowInt8(), BlockInt8(), BlockInt8(), BlockInt8()),
    "int4": Precision(BlockInt4(), BlockInt4(), BlockInt8(), BlockInt8(), never_alone=True),
    "fp16": Precision(_HALF, _HALF, _HALF, _HALF, activations=np.float16),
}


def quantize_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weight fp32 [out, in] → codes uint8 [out, blocks, BLOCK] around 128, and scales fp32 [out, blocks]."""
    blocks = _in_blocks(weight)
    scales = np.abs(blocks).max(axis=-1) / np.float32(127)
    codes = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None])
    codes += 128
    return codes.astype(np.uint8), scales


def keeps_in_int4(weight: np.ndarray) -> bool:
    """Whether 4 bits with a scale and an offset per block reproduce weight fp32 [out, in], because it was stored that way."""
    if weight.shape[1] % BLOCK:
        return False
    with np.errstate(all="ignore"):  # non-finite weights compare as not kept
        codes, scales, offsets = quantize_int4(weight)
        nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*scales.shape, BLOCK).astype(np.float32)
        error = np.abs((nibbles - 8) * scales[..., None] + offsets[..., None] - _in_blocks(weight)).max()
        return bool(error <= LOSSLESS * np.abs(weight).max())


def quantize_int4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight fp32 [out, in] → codes uint8 [out, blocks, BLOCK / 2], scales and offsets fp32 [out, blocks].

    A weight is offset + scale * (code - 8). Each block uses the better fit of two lattices: from its smallest to its largest
    value (as in Q4_1), or around zero with the largest magnitude at one end (as in Q4_0).
    """
    blocks = _in_blocks(weight)
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    spread = (high - low) / np.float32(15)
    centred = np.where(-low > high, low, high) / np.float32(-8)
    codes, error = _int4_codes(blocks, spread, low + 8 * spread)
    other_codes, other_error = _int4_codes(blocks, centred, np.zeros_like(low))
    nearer = other_error < error
    codes[nearer] = other_codes[nearer]
    scales, offsets = np.where(nearer, centred, spread), np.where(nearer, 0, low + 8 * spread)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales, offsets.astype(np.float32)


def _int4_codes(blocks: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest codes, and each block's squared error."""
    steps = np.where(scales == 0, 1, scales)[..., None]
    codes = np.clip(np.rint((blocks - offsets[..., None]) / steps), -8, 7)
    error = np.square(codes * scales[..., None] + offsets[..., None] - blocks).sum(axis=-1)
    return (codes + 8).astype(np.uint8), error


def _matmul_nbits(graph: OnnxWriter, inputs: list[str], shape: tuple[int, ...], *, bits: int) -> str:
    rows, columns = shape
    return graph.contrib("MatMulNBits", inputs, N=rows, K=columns, bits=bits, block_size=BLOCK, accuracy_level=4)


def _in_blocks(weight: np.ndarray) -> np.ndarray:
    rows, columns = weight.shape
    count = -(-columns // BLOCK)
    if count * BLOCK != columns:
        weight = np.pad(weight, ((0, 0), (0, count * BLOCK - columns)))
    return weight.reshape(rows, count, BLOCK)
