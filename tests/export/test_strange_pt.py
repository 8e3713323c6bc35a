"""An export of a `.pt` that is broken or hostile: one sentence, exit status 1, bounded memory and time, and no trace."""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from export import trial
from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples
from tests.export.strangers import cut, refused


@pytest.mark.parametrize("kept", [0, 5, 100, -300, -1])
def test_a_pt_that_ends_early_is_refused(kept: int, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    cut(tmp_path / "ckpt.pt", kept)
    with pytest.raises(CheckpointError, match="cut short or damaged|not a checkpoint|zip archive"):
        read(tmp_path / "ckpt.pt")


def test_old_pickles_of_torch_are_refused_whole_or_cut(tmp_path: Path) -> None:
    file = tmp_path / "old.pt"
    torch.save({"model": {"a": torch.ones(50)}}, file, _use_new_zipfile_serialization=False)
    for kept in (None, 100, 2):
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(CheckpointError, match="it is a bare pickle"):
            read(file)


def pickled_pt(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


def nested_tuples(depth: int) -> bytes:
    """A dictionary whose key is a pair of pairs of pairs, the same object on both sides: hashing it takes 2**depth steps."""
    return b"\x80\x02}K\x00K\x00" + b"\x86q\x01h\x01" * depth + b"\x86K\x01s."


def repeated_list(depth: int) -> bytes:
    """A list that holds ten times a list that holds ten times a list …: short as a pickle, endless as text."""
    if depth == 0:
        return b"]q\x01"
    return b"](" + repeated_list(depth - 1) + bytes([ord("h"), depth]) * 9 + bytes([ord("e"), ord("q"), depth + 1])


def pickled_text(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


ENDLESS_SIZE = b"\x80\x02}" + pickled_text(b"model_args") + b"}" + pickled_text(b"vocab_size") + repeated_list(30) + b"ss."


BYTES = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 1 << 34) + b"\x85R."  # bytearray(2**34)


PICKLES: dict[str, tuple[bytes, str]] = {
    "a gibibyte times sixteen": (BYTES, "memory|torch cannot read"),
    "a key that takes ages to hash": (nested_tuples(80), "does not come to an end"),
    "lists in lists in lists": (ENDLESS_SIZE, r"vocab_size = \[\["),
    "nothing": (b"", "torch cannot read it"),
    "a number of no end": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1" * 100 + b".", "torch cannot read it"),
    "no dictionary": (b"\x80\x02K\x01.", "holds no dictionary"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_bomb_in_a_pt_is_refused(kind: str, tmp_path: Path) -> None:
    content, said = PICKLES[kind]
    pickled_pt(tmp_path / "bomb.pt", content)
    with pytest.raises(CheckpointError, match=said) as refusal:
        trial.try_out(tmp_path / "bomb.pt", None, None, cpu_seconds=8)
    assert len(str(refusal.value)) < 1000


@pytest.mark.slow
def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    pickled_pt(tmp_path / "bomb.pt", bytes(300 << 20), zipfile.ZIP_DEFLATED)
    assert "data.pkl is longer than" in refused(tmp_path / "bomb.pt")
    pickled_pt(tmp_path / "small.pt", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="its archive is compressed"):
        trial.try_out(tmp_path / "small.pt", None, None)


@pytest.mark.slow
def test_a_meta_pkl_that_asks_for_gibibytes_is_refused(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    # a memo of 2**31 places, of which Python's unpickler makes an array
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04}r" + struct.pack("<I", 2**31 - 2) + b".")
    assert re.search("meta.pkl|memory", refused(tmp_path / "ckpt.pt"))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": [0]}, "itos": {}}))
    with pytest.raises(CheckpointError, match="meta.pkl"):
        trial.try_out(tmp_path / "ckpt.pt", None, None)


NOT_PLAIN = "served are plain ones of floating-point numbers|torch cannot read it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.ones(3).to_sparse(), NOT_PLAIN),
        (torch.ones(3, device="meta"), NOT_PLAIN),
        (torch.ones(3, dtype=torch.complex64), NOT_PLAIN),
        (torch.ones(3, dtype=torch.int32), NOT_PLAIN),
        (torch.ones(3, dtype=torch.int64), "lacks the tensors transformer.ln_f.weight"),  # taken for a mask
    ],
    ids=["sparse", "meta", "complex", "integer", "long"],
)
def test_tensors_that_are_no_plain_weights_are_refused(tensor: torch.Tensor, said: str, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    saved["model"]["transformer.ln_f.weight"] = tensor
    torch.save(saved, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=said):
        trial.try_out(tmp_path / "odd.pt", None, None)
