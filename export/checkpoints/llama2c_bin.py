"""Files written by llama2.c's export.py for run.c and runq.c.

Version 0 has no magic: seven integers, fp32 tensors, and cosine and sine tables, which are recomputed here.
Versions 1 (fp32) and 2 (q80: int8 in groups, each with a scale) start with "ak42" and have a 256-byte header.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import numpy as np

from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import llama2c
from export.checkpoints.options import Options
from export.checkpoints.settings import LAYERS, SIZE
from export.checkpoints.tensors import RawTensor, Shape, fitting

MAGIC = b"24ka"  # "ak42" as a little-endian number
NUMBERS = struct.Struct("<7i")
FLAGS = struct.Struct("<Bi")  # whether the head is tied, and the group size of version 2
HEADER = 256  # bytes, since version 1
ATTENTION = tuple(f"attention.{name}" for name in ("wq", "wk", "wv", "wo"))
MLP = tuple(f"feed_forward.{name}" for name in ("w1", "w2", "w3"))


@dataclass(frozen=True)
class Header:
    version: int
    offset: int  # of the first tensor, in bytes
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    rows: int
    context_length: int
    is_tied: bool
    group: int  # int8 weights per scale; 0: fp32

    @property
    def is_sound(self) -> bool:
        sizes = (self.width, self.mlp_width, self.heads, self.kv_heads, self.rows, self.context_length)
        bounded = all(1 <= size <= SIZE for size in sizes) and 1 <= self.layers <= LAYERS
        return bounded and self.width % self.heads == 0 and self.heads % self.kv_heads == 0


def recognises(start: bytes, path: Path) -> bool:
    return start.startswith(MAGIC) or (path.suffix == ".bin" and len(start) >= NUMBERS.size and _header(start).is_sound)


def read(path: Path, options: Options) -> Checkpoint:
    with path.open("rb") as file:
        header = _header(file.read(HEADER))
    if not header.is_sound:
        raise CheckpointError("its header holds sizes that no model of llama2.c has: it is damaged")
    settings = {
        "dim": header.width,
        "n_layers": header.layers,
        "n_heads": header.heads,
        "n_kv_heads": header.kv_heads,
        "vocab_size": header.rows,
        "max_seq_len": header.context_length,
    }
    return llama2c.checkpoint(path, _tensors(path, header), settings, options)


def _header(start: bytes) -> Header:
    """Raises CheckpointError if the version is unknown or the header is truncated."""
    version, is_tied, group = 0, True, 0
    if start.startswith(MAGIC):
        if len(start) < HEADER:
            raise CheckpointError("it is cut short: it ends within its header")
        (version,) = struct.unpack_from("<i", start, len(MAGIC))
        is_tied, group = FLAGS.unpack_from(start, 8 + NUMBERS.size)
        if version not in (1, 2):
            raise CheckpointError(f"it is of version {version} of llama2.c's format, served are 0, 1 and 2")
        if version == 2 and group < 1:
            raise CheckpointError(f"its groups of int8 weights have {group} members")
    width, mlp_width, layers, heads, kv_heads, rows, context_length = NUMBERS.unpack_from(start, 8 if version else 0)
    return Header(
        version,
        offset=HEADER if version else NUMBERS.size,
        width=width,
        mlp_width=mlp_width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        rows=rows if version else abs(rows),
        context_length=context_length,
        is_tied=bool(is_tied) if version else rows > 0,
        group=group if version == 2 else 0,
    )


def _tensors(path: Path, header: Header) -> dict[str, RawTensor]:
    """Tensors by name, read from the file on demand."""
    shapes = {name: _shape(name, header) for name in _names(header)}
    for name, shape in shapes.items():
        if header.group and len(shape) == 2 and prod(shape) % header.group:
            raise CheckpointError(f"its tensor {name} of {prod(shape)} weights is no multiple of its groups of {header.group}")
    ends = accumulate((_size(shape, header) for shape in shapes.values()), initial=header.offset)
    places = dict(zip(shapes, pairwise(ends), strict=True))
    if (size := path.stat().st_size) != (expected := max(end for _, end in places.values())):
        raise CheckpointError(f"its header asks for {expected} bytes, it has {size}: it is cut short or damaged")
    data = np.memmap(path, np.uint8, "r")
    return fitting(
        {
            name: RawTensor(shapes[name], partial(_fp32, data[begin:end], shapes[name], header.group))
            for name, (begin, end) in places.items()
            if name not in llama2c.TABLES
        }
    )


def _names(header: Header) -> Iterator[str]:
    """Names in file order: one kind of tensor for all layers, then the next kind."""

    def of_layers(*kinds: str) -> Iterator[str]:
        return (f"layers.{layer}.{kind}.weight" for kind in kinds for layer in range(header.layers))

    if header.version == 0:
        yield "tok_embeddings.weight"
        yield from of_layers("attention_norm", *ATTENTION, "ffn_norm", *MLP)
        yield from ("norm.weight", *llama2c.TABLES)
    else:
        yield from of_layers("attention_norm", "ffn_norm")
        yield from ("norm.weight", "tok_embeddings.weight")
        yield from of_layers(*ATTENTION, *MLP)
    if not header.is_tied:
        yield "output.weight"


def _shape(name: str, header: Header) -> Shape:
    width, size = header.width, header.width // header.heads
    shapes = {
        **dict.fromkeys(("tok_embeddings", "output"), (header.rows, width)),
        **dict.fromkeys(("wq", "wo"), (width, width)),
        **dict.fromkeys(("wk", "wv"), (header.kv_heads * size, width)),
        **dict.fromkeys(("w1", "w3"), (header.mlp_width, width)),
        "w2": (width, header.mlp_width),
        **dict.fromkeys(llama2c.TABLES, (header.context_length, size // 2)),
    }
    return shapes.get(name.removesuffix(".weight").split(".")[-1], (width,))


def _size(shape: Shape, header: Header) -> int:
    """Size in bytes; norms are fp32 in every version."""
    count = prod(shape)
    return count + 4 * (count // header.group) if header.group and len(shape) == 2 else 4 * count


def _fp32(data: np.ndarray, shape: Shape, group: int) -> np.ndarray:
    if not group or len(shape) == 1:
        return data.view("<f4").reshape(shape)
    count = prod(shape)
    weights, scales = data[:count].view(np.int8).reshape(-1, group), data[count:].view("<f4")
    return (weights * scales[:, None].astype(np.float32)).reshape(shape)
