"""GGUF files (versions 2 and 3, little-endian): metadata and tensors, mapped and dequantised when asked for.

A model may be split into several files, as llama.cpp's gguf-split does it: `name-00001-of-00003.gguf` and so on.

The header is read by hand: the gguf package's reader makes several numpy views of every token of the vocabulary, which
takes seconds, and trusts the lengths it finds. Its dequantisation, llama.cpp's own arithmetic, is used as it is.
"""

import re
import struct
from functools import partial
from math import gcd, prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from export.checkpoint import CheckpointError, shown
from export.checkpoints.tensors import RawTensor, check_places, fitting

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
HEADER_LIMIT, COUNT_LIMIT = 64 << 20, 1 << 16  # bytes; tensors, and metadata entries
ELEMENT_LIMIT = 1 << 22  # of an array: vocabularies have a quarter of a million
# what gguf.quants can dequantise; a file of another type is refused by its name
SERVED = {
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4",
}  # fmt: skip
PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

Metadata = dict[str, Any]
Tensors = dict[str, RawTensor]


def read(path: Path) -> tuple[Metadata, Tensors]:
    """The metadata by key, and the tensors by name with their shapes in row-major order. Any part of a split stands for all."""
    metadata, tensors = _read_one(path)
    count = metadata.get("split.count", 1)
    if count not in (0, 1):
        metadata, tensors = _read_parts(path, count)
    return metadata, fitting(tensors)


def unsplit(name: str) -> str:
    """The name shared by the parts of a split; otherwise the file's name."""
    part = PART.fullmatch(name)
    return f"{part['name']}.gguf" if part else name


def _read_parts(path: Path, count: Any) -> tuple[Metadata, Tensors]:
    """The first part holds the metadata; each part holds its own tensors."""
    part = PART.fullmatch(path.name)
    if part is None or not isinstance(count, int) or int(part["count"]) != count:
        raise CheckpointError(
            f"it is one of {shown(count)} files of a split model, whose names end in -00001-of-….gguf and so on"
        )
    metadata: Metadata = {}
    tensors: Tensors = {}
    for number in range(count):
        file = path.with_name(f"{part['name']}-{number + 1:05}-of-{count:05}.gguf")
        if not file.is_file() or not file.stat().st_size:
            raise CheckpointError(f"its part {file.name} is missing or empty")
        own, more = _read_one(file)
        if own.get("split.no") != number or own.get("split.count") != count:
            raise CheckpointError(f"its part {file.name} is not what its name says: it belongs to another model, or place")
        if twice := tensors.keys() & more:
            raise CheckpointError(f"its part {file.name} holds the tensor {min(twice)} of another part")
        metadata = metadata or own
        tensors.update(more)
    if (total := metadata.get("split.tensors.count")) != len(tensors):
        raise CheckpointError(f"its parts hold {len(tensors)} tensors, expected are {shown(total)}")
    return metadata, tensors


def _read_one(path: Path) -> tuple[Metadata, Tensors]:
    data = np.memmap(path, np.uint8, mode="r")
    header = _Header(data[:HEADER_LIMIT].data)
    if bytes(header.take(4)) != b"GGUF":
        raise CheckpointError(f"{path.name} is no GGUF file")
    version, tensor_count, entry_count = header.number("<I"), header.number("<Q"), header.number("<Q")
    if version not in (2, 3):
        raise CheckpointError(f"it is GGUF version {version}; served are 2 and 3, little-endian")
    header.expect(tensor_count, 24)
    header.expect(entry_count, 13)
    if max(tensor_count, entry_count) > COUNT_LIMIT:
        raise CheckpointError(f"it claims {tensor_count} tensors and {entry_count} entries, allowed are {COUNT_LIMIT} of each")
    metadata = {header.string(): header.value(header.number("<I")) for _ in range(entry_count)}
    infos = [header.tensor_info() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"its general.alignment is {shown(alignment)}, allowed are powers of two")
    start = -(-header.offset // alignment) * alignment
    if len({name for name, *_ in infos}) != tensor_count:
        raise CheckpointError("it names two tensors alike, so it is damaged")
    tensors, places = {}, []
    for name, shape, kind, offset in infos:
        tensors[name], size = _tensor(data, start, name, shape, kind, offset)
        places.append((name, offset, offset + size))
    check_places(places)
    return metadata, tensors


class _Header:
    """A cursor over the header. Every length is checked against the file before anything is read."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.offset = data, 0
        self.elements = 0  # of all arrays so far

    def take(self, count: int) -> memoryview:
        self.expect(count, 1)
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def expect(self, count: int, size: int) -> None:
        """Requires that ``count`` items of at least ``size`` bytes each still fit into the file."""
        if count * size > len(self.data) - self.offset:
            raise CheckpointError("it is cut short or damaged: its header claims more than the file holds")

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        # a token of a broken vocabulary may be no UTF-8: it then never matches, as in llama.cpp
        return str(self.take(self.number("<Q")), "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(self._scalar(kind))
        kind, count = self.number("<I"), self.number("<Q")
        self.elements += count
        if self.elements > ELEMENT_LIMIT:
            raise CheckpointError(f"its metadata has arrays of more than {ELEMENT_LIMIT} elements")
        if kind == STRING:
            self.expect(count, 8)
            return [self.string() for _ in range(count)]
        form = self._scalar(kind)
        self.expect(count, struct.calcsize(form))
        return np.frombuffer(self.take(count * struct.calcsize(form)), np.dtype(form)).tolist()

    def tensor_info(self) -> tuple[str, list[int], int, int]:
        name, dimensions = self.string(), self.number("<I")
        if dimensions > 4:
            raise CheckpointError(f"its tensor {name} has {dimensions} dimensions, GGUF allows 4")
        shape = [self.number("<Q") for _ in range(dimensions)][::-1]  # GGUF names the innermost first
        return name, shape, self.number("<I"), self.number("<Q")

    @staticmethod
    def _scalar(kind: int) -> str:
        if kind not in SCALARS:
            raise CheckpointError(f"its metadata holds a value of the unknown type {kind}")
        return SCALARS[kind]


def _tensor(data: np.ndarray, start: int, name: str, shape: list[int], kind: int, offset: int) -> tuple[RawTensor, int]:
    """The tensor and its bytes in the file."""
    known = {int(served): served for served in GGMLQuantizationType}
    if kind not in known or known[kind].name not in SERVED:
        shown = known[kind].name if kind in known else kind
        raise CheckpointError(f"its tensor {name} is of type {shown}; served are {', '.join(sorted(SERVED))}")
    block, block_bytes = GGML_QUANT_SIZES[known[kind]]
    if not shape or min(shape) < 1 or shape[-1] % block:
        raise CheckpointError(f"its tensor {name} of shape {shape} is not made of {known[kind].name} blocks of {block}")
    size, begin = prod(shape) // block * block_bytes, start + offset
    if begin + size > len(data):
        raise CheckpointError(f"its tensor {name} lies outside the file, which is cut short or damaged")
    return RawTensor(tuple(shape), partial(_dequantized, data[begin : begin + size], known[kind], shape)), size


def _dequantized(data: np.ndarray, kind: GGMLQuantizationType, shape: list[int]) -> np.ndarray:
    # dequantize works on 16 rows at a time: several short rows handed over as one long one are three times as fast
    joined = gcd(prod(shape[:-1]), 32)
    return dequantize(data.reshape(prod(shape[:-1]) // joined, -1), kind).reshape(shape)
