"""An export of a GGUF file that is broken or hostile: one sentence, exit status 1, bounded memory and time, and no trace."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples
from tests.export.strangers import TERABYTE, cut, holed, refused


def gguf_sections(content: bytes) -> dict[str, int]:
    """Where some parts of a GGUF file lie."""
    found = {
        "the magic number": 3,
        "the counts": 12,
        "a key": 30,
        "the vocabulary": content.index(b"tokenizer.ggml.tokens") + 200,
        "the merges": content.index(b"tokenizer.ggml.merges") + 90,
        "the template": content.index(b"tokenizer.chat_template") + 60,
        "the tensors' names": content.index(b"blk.1.attn_q") + 5,
        "the weights": len(content) - 1,
    }
    return found


@pytest.mark.parametrize(
    "section", gguf_sections(b"tokenizer.ggml.tokens tokenizer.ggml.merges tokenizer.chat_template blk.1.attn_q")
)
def test_a_gguf_that_ends_in_any_section_is_refused(section: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    samples.gguf_llama(file)
    cut(file, gguf_sections(file.read_bytes())[section])
    with pytest.raises(CheckpointError, match="not a checkpoint" if section == "the magic number" else "cut short or damaged"):
        read(file)


def gguf_start(tensors: int, entries: bytes, count: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + entries


def gguf_array(kind: int, count: int) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (gguf_start(0, gguf_array(3, 10**10)), "arrays of more than"),
        (gguf_start(0, gguf_array(8, 10**10)), "arrays of more than"),
        (gguf_start(0, gguf_array(9, 10**10)), "arrays of more than"),
        (gguf_start(0, gguf_array(3, 2**64 - 1)), "arrays of more than"),
        (gguf_start(10**9, b"", 0), "claims 1000000000 tensors|claims more than the file holds"),
        (gguf_start(0, b"", 10**9), "1000000000 entries|claims more than the file holds"),
        (gguf_start(0, struct.pack("<Q", 10**11)), "claims more than the file holds"),
        (gguf_start(1, b"", 0) + struct.pack("<QI", 0, 2) + struct.pack("<QQIQ", 2**63, 2, 0, 0), "lies outside the file"),
        (gguf_start(1, b"", 0) + struct.pack("<QI", 0, 1) + struct.pack("<QIQ", 2**38 + 8, 0, 2**63), "lies outside the file"),
        (gguf_start(1, b"", 0) + struct.pack("<QI", 0, 1) + struct.pack("<QIQ", 2**37, 0, 0), "this machine has"),
        (gguf_start(1, b"", 0) + struct.pack("<QI", 0, 2**31), "has 2147483648 dimensions"),
        (gguf_start(1, b"", 0) + struct.pack("<QI", 0, 1) + struct.pack("<QIQ", 0, 0, 0), "is not made of F32 blocks"),
    ],
)
def test_a_gguf_that_claims_what_cannot_be_is_refused(start: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(holed(tmp_path / "model.gguf", start, TERABYTE))


def test_tensors_of_a_gguf_that_overlap_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    samples.gguf_llama(file, "F32")
    content = bytearray(file.read_bytes())
    place = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4  # dimensions, one of them, type
    content[place : place + 8] = struct.pack("<Q", 0)
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="tensors .* overlap in the file"):
        read(file)


def test_a_scale_of_nan_in_a_quantised_weight_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    samples.gguf_llama(file, "Q8_0")
    place = next(int(tensor.data_offset) for tensor in GGUFReader(file).tensors if tensor.name == "blk.1.ffn_up.weight")
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:place] + np.float16(np.nan).tobytes() + content[place + 2 :])
    assert "blk.1.ffn_up.weight holds NaN or infinity" in refused(file)


def test_pipes_devices_and_links_to_nowhere_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "neither a file nor a directory" in refused(tmp_path / "pipe.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        read(tmp_path / "device.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "loop.gguf")
