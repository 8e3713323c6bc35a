"""llm.c's `.bin` files of a GPT-2: a header of 256 int32, then the weights in fp32 or bfloat16, each kind for all layers.

The layout is that of train_gpt2.py's `write_model`, which train_gpt2.cu shares.
"""

from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import gpt2
from export.checkpoints.options import Options
from export.checkpoints.settings import LAYERS, whole
from export.checkpoints.tensors import RawTensor, Shape, fitting
from export.references.gpt2 import Gpt2
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size

MODEL, STATE, LLAMA3 = 20240326, 20240327, 20240803  # the first number
HEADER_BYTES = 4 * 256
FIELDS = ("max_seq_len", "vocab_size", "num_layers", "num_heads", "channels", "padded_vocab_size")
TYPES = {3: np.dtype("<f4"), 5: np.dtype(ml_dtypes.bfloat16)}  # by version


def recognises(start: bytes, path: Path) -> bool:
    return int.from_bytes(start[:4], "little") in (MODEL, STATE, LLAMA3)


def read(path: Path, options: Options) -> Checkpoint:
    data = np.memmap(path, np.uint8, mode="r")
    if len(data) < HEADER_BYTES:
        raise CheckpointError(f"it is cut short: it has {len(data)} bytes, its header alone {HEADER_BYTES}")
    magic, version, *numbers = data[:HEADER_BYTES].view("<i4").tolist()
    _require_served(magic, version)
    header = dict(zip(FIELDS, numbers, strict=False))
    rows, padded = whole(header, "vocab_size"), whole(header, "padded_vocab_size")
    if rows > padded:
        raise CheckpointError(f"its header says vocab_size = {rows}, more than padded_vocab_size = {padded}")
    files = _tokenizer(rows, options)
    architecture = gpt2.architecture(
        layers=whole(header, "num_layers", limit=LAYERS),
        heads=whole(header, "num_heads"),
        width=whole(header, "channels"),
        vocabulary_size=vocabulary_size(files, rows),
        context_length=whole(header, "max_seq_len"),
    )
    tensors = _tensors(data[HEADER_BYTES:], TYPES[version], architecture, padded)
    weights = gpt2.weights(tensors, architecture, rows=padded, biases=True, conv1d=False)
    return Checkpoint(path, architecture, weights, files, gpt2.reference(Gpt2, tensors, architecture))


def _require_served(magic: int, version: int) -> None:
    if magic == STATE:
        raise CheckpointError("it is the state of a training of llm.c, not the model: that is the model_*.bin beside it")
    if magic == LLAMA3:
        raise CheckpointError(
            "it is a Llama 3 of llm.c, whose header rounds its settings to whole numbers: "
            "export the Hugging Face directory that its weights come from"
        )
    if version not in TYPES:
        raise CheckpointError(
            f"it is version {version} of llm.c's files; served are 3 (fp32) and 5 (bfloat16), as llm.c writes since May 2024"
        )


def _tokenizer(rows: int, options: Options) -> TokenizerFiles:
    return named(options.tokenizer, add_bos=False) if options.tokenizer else gpt2.tokenizer(rows)


def _tensors(data: np.ndarray, kind: np.dtype, architecture: Architecture, rows: int) -> dict[str, RawTensor]:
    layout = dict(_layout(architecture, rows))
    expected = sum(map(prod, layout.values())) * kind.itemsize
    if len(data) != expected:
        raise CheckpointError(
            f"its header asks for {expected} bytes of weights, it has {len(data)}: it is cut short or damaged"
        )
    tensors, offset = {}, 0
    for name, shape in layout.items():
        size = prod(shape) * kind.itemsize
        tensors[name] = RawTensor(shape, partial(_fp32, data[offset : offset + size], kind, shape))
        offset += size
    return fitting(tensors)


def _layout(architecture: Architecture, rows: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in the file's order."""
    width, context = architecture.width, architecture.context_length
    yield "transformer.wte.weight", (rows, width)
    yield "transformer.wpe.weight", (context, width)
    shapes: dict[str, Shape] = {
        "ln_1": (width,),
        "attn.c_attn": (3 * width, width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (4 * width, width),
        "mlp.c_proj": (width, 4 * width),
    }
    for name, shape in shapes.items():
        for part, size in (("weight", shape), ("bias", shape[:1])):
            for layer in range(architecture.layers):
                yield f"transformer.h.{layer}.{name}.{part}", size
    yield "transformer.ln_f.weight", (width,)
    yield "transformer.ln_f.bias", (width,)


def _fp32(data: np.ndarray, kind: np.dtype, shape: Shape) -> np.ndarray:
    return data.view(kind).astype(np.float32, copy=False).reshape(shape)
