"""An export of a file that is broken or hostile: one sentence, exit status 1, bounded memory and time, and no trace."""

import json
import os
import pickle
import re
import resource
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from export import trial
from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples

ROOT = Path(__file__).parents[2]
MOST_MEMORY, MOST_SECONDS = 1.5 * 2**30, 30.0  # of an export that is refused: bytes, and seconds of a processor
TERABYTE = 1 << 40


def refused(path: Path, *options: str) -> str:
    """The sentence with which the export refuses; fails where it is not one, or took too much, or left anything."""
    repository = path.parent / "models"
    command = [sys.executable, "-m", "export", str(path), "--repository", str(repository), "--name", "stranger", *options]
    before = processor_seconds()
    with (path.parent / "said").open("wb+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        peak = watched_memory(process.pid, process.poll)
        seconds = processor_seconds() - before
        output.seek(0)
        lines = output.read().decode().splitlines()
    assert process.returncode == 1, lines
    assert seconds < MOST_SECONDS and peak < MOST_MEMORY, (seconds, peak / 2**30)
    assert not repository.exists() or os.listdir(repository) == []
    assert not (repository.parent / ".models.export").exists()
    said = [line for line in lines if not line.startswith(("Reading ", "Writing ", "Comparing ", "  tokens "))]
    assert len(said) == 1 and said[0].startswith("refused: ") and len(said[0]) < 1500, lines
    return said[0]


def processor_seconds() -> float:
    """Of the children that have ended, and theirs: a machine that is busy with something else does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched_memory(pid: int, poll: Callable[[], int | None]) -> int:
    """Waits for the end; the most bytes that the process and its children held in memory together (private pages)."""
    peak = 0
    while poll() is None:
        held = 0
        for process in (pid, *children(pid)):
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            held += int(found[1]) * 1024 if found else 0
        peak = max(peak, held)
        time.sleep(0.02)
    return peak


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# --- truncated files --------------------------------------------------------------------------------------------------


def cut(file: Path, kept: int) -> None:
    content = file.read_bytes()[:kept]
    file.unlink()
    file.write_bytes(content)


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
    with pytest.raises(CheckpointError, match="no checkpoint" if section == "the magic number" else "cut short or damaged"):
        read(file)


@pytest.mark.parametrize("kept", [0, 5, 100, -300, -1])
def test_a_pt_that_ends_early_is_refused(kept: int, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    cut(tmp_path / "ckpt.pt", kept)
    with pytest.raises(CheckpointError, match="cut short or damaged|no checkpoint|zip archive"):
        read(tmp_path / "ckpt.pt")


def test_old_pickles_of_torch_are_refused_whole_or_cut(tmp_path: Path) -> None:
    file = tmp_path / "old.pt"
    torch.save({"model": {"a": torch.ones(50)}}, file, _use_new_zipfile_serialization=False)
    for kept in (None, 100, 2):
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(CheckpointError, match="it is a bare pickle"):
            read(file)


# --- sizes that cannot be ---------------------------------------------------------------------------------------------


def holed(file: Path, start: bytes, size: int) -> Path:
    """A file of any size that takes no place on the disk."""
    with file.open("wb") as output:
        output.write(start)
        output.truncate(size)
    return file


def safetensors_header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@cache
def llama_sample() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        samples.hf_llama(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def llama_directory(path: Path, **changes: Any) -> Path:
    """A Hugging Face directory with ``changes`` in its config.json."""
    directory = path / "llama"
    directory.mkdir()
    for name, content in llama_sample().items():
        (directory / name).write_bytes(content)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def with_tensors(directory: Path, change: Callable[[dict[str, Any]], None], size: int | None = None) -> Path:
    """The directory with another header before the same bytes."""
    file = directory / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    file.unlink()
    changed = safetensors_header(header)
    holed(file, changed + content[8 + length :], size or len(changed) + len(content) - 8 - length)
    return directory


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [1 << 20, 1 << 18]}, "does not fit its 256 bytes"),
        ({"shape": [-64]}, "does not fit"),
        ({"shape": [-8, -8]}, "does not fit"),
        ({"shape": [1 << 62, 4]}, "does not fit"),
        ({"shape": [64.0]}, "made of other things than whole numbers"),
        ({"shape": [True] * 70}, "made of other things than whole numbers"),
        ({"data_offsets": [0, 10**18]}, "lies outside the file"),
        ({"data_offsets": [-256, 0]}, "lies outside the file"),
        ({"data_offsets": [512, 256]}, "lies outside the file"),
        ({"data_offsets": [0]}, "damaged header"),
        ({"data_offsets": [0, 256]}, "overlap in the file"),
        ({"dtype": "I64"}, "is of type I64"),
        ({"dtype": "x" * 10**6}, "is of type xxxx"),
        ({"more": 1}, "damaged header"),
    ],
)
def test_a_safetensors_header_that_cannot_be_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    directory = with_tensors(llama_directory(tmp_path), lambda header: header[NORM].update(change))
    with pytest.raises(CheckpointError, match=said) as refusal:
        read(directory)
    assert len(str(refusal.value)) < 1000


def test_a_terabyte_that_a_file_with_holes_does_hold_is_refused(tmp_path: Path) -> None:
    rows, width = 1 << 23, 1 << 15
    path = llama_directory(tmp_path, vocab_size=rows, hidden_size=width)
    claim = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, TERABYTE]}
    start = safetensors_header({"model.embed_tokens.weight": claim})
    (path / "model.safetensors").unlink()
    holed(path / "model.safetensors", start, len(start) + TERABYTE)
    assert re.search(r"tensor model.embed_tokens.weight of shape .* takes 1024.0 GiB, this machine has", refused(path))


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


CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads = 0"),
    "heads that do not divide": ({"num_attention_heads": 7, "head_dim": None}, "not a multiple of its 7 heads"),
    "a thousand million layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
    "no context": ({"max_position_embeddings": 0}, "max_position_embeddings = 0"),
    "a number of 4000 digits": ({"hidden_size": int("9" * 4000)}, "hidden_size = "),
    "text": ({"hidden_size": "wide" * 10**6}, "hidden_size = 'widewide"),
    "a list of its own": ({"model_type": ["llama"]}, r"model_type = \['llama'\]"),
    "an epsilon of NaN": ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
    "an infinite theta": ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_theta = inf"),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_is_refused(kind: str, tmp_path: Path) -> None:
    changes, said = CONFIGURATIONS[kind]
    with pytest.raises(CheckpointError, match=said) as refusal:
        read(llama_directory(tmp_path, **changes))
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("content", "said"), [("[" * 10**6, "not valid JSON"), ("[]", "no JSON object"), (None, "bytes long, allowed are")]
)
def test_json_that_is_too_deep_too_large_or_no_object_is_refused(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    path = llama_directory(tmp_path)
    (path / name).write_text(content) if content else holed(path / name, b"{", 1 << 36)
    with pytest.raises(CheckpointError, match=f"its {name} .*{said}"):
        read(path)


# --- weights that are no numbers, tokenizers that do not fit ----------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_export_of_weights_that_are_no_numbers_says_one_sentence(value: float, tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][:] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    said = refused(path)
    expected = "the logits hold NaN or infinity" if value == 3e38 else "model.layers.1.mlp.up_proj.weight holds NaN or infinity"
    assert expected in said


def test_a_scale_of_nan_in_a_quantised_weight_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    samples.gguf_llama(file, "Q8_0")
    place = next(int(tensor.data_offset) for tensor in GGUFReader(file).tensors if tensor.name == "blk.1.ffn_up.weight")
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:place] + np.float16(np.nan).tobytes() + content[place + 2 :])
    assert "blk.1.ffn_up.weight holds NaN or infinity" in refused(file)


BPE = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
TOKENIZERS: dict[str, tuple[str | bytes, str]] = {
    "garbage": (b"\x00\xff" * 500, "is not UTF-8"),
    "empty": ("", "is no tokenizer.json"),
    "of another kind": ('{"model": {"type": "Magic"}}', "is no tokenizer.json"),
    "without a token": (json.dumps({"model": BPE | {"vocab": {}}}), "names 0 tokens"),
    "with an id of 4 thousand million": (
        json.dumps({"model": BPE | {"vocab": {"a": 2**32 - 2}}}),
        "has the id 4294967294, allowed are ids below",
    ),
    "with a merge of nothing": (json.dumps({"model": BPE | {"merges": ["x y"]}}), "is no tokenizer.json"),
    "deep": ("[" * 10**6, "is no tokenizer.json"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    content, said = TOKENIZERS[kind]
    path = llama_directory(tmp_path)
    (path / "tokenizer.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=said):
        read(path)


def test_a_huge_tokenizer_is_refused_unread(tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    holed(path / "tokenizer.json", b"{", TERABYTE)
    assert f"tokenizer.json is {TERABYTE} bytes long, allowed are" in refused(path)


# --- programs inside --------------------------------------------------------------------------------------------------


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "loops for ever": (ENDLESS, "does not come to an end"),
    "multiplies": ("{{ 'a' * 10**10 }}", "MemoryError|more memory"),
    "ranges": ("{% for i in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
    "fills": ("{{ 'a' | center(10**11) }}", "MemoryError|more memory"),
    "doubles": (
        "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "emory",
    ),
    "powers": ("{% set number = 9 ** (9 ** 9) %}", "does not come to an end|emory"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_never_ends_or_takes_all_memory_is_refused(kind: str, tmp_path: Path) -> None:
    template, said = TEMPLATES[kind]
    path = llama_directory(tmp_path)
    samples.save_tokenizer(path, template)
    with pytest.raises(CheckpointError, match=said):
        trial.try_out(path, None, None, cpu_seconds=6)


def test_an_export_of_an_endless_template_ends_with_one_sentence(tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    samples.save_tokenizer(path, ENDLESS)
    assert "does not come to an end" in refused(path)


def with_tokenizer(path: Path, **changes: Any) -> Path:
    document = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(document | changes))
    return path


def test_a_normalizer_that_makes_a_terabyte_of_a_letter_is_refused(tmp_path: Path) -> None:
    growing = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}
    path = with_tokenizer(llama_directory(tmp_path), normalizer={"type": "Sequence", "normalizers": [growing] * 4})
    with pytest.raises(CheckpointError, match="ended with status -6|memory|come to an end"):
        trial.try_out(path, None, None, cpu_seconds=8)


def test_a_regular_expression_that_tries_everything_comes_to_an_end(tmp_path: Path) -> None:
    """The library gives up by itself; were that to change, this would be refused as a template is that never ends."""
    split = {"type": "Split", "pattern": {"Regex": "(([A-Za-z ,.]+)+)+#"}, "behavior": "Isolated", "invert": False}
    trial.try_out(with_tokenizer(llama_directory(tmp_path), pre_tokenizer=split), None, None, cpu_seconds=8)


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


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    pickled_pt(tmp_path / "bomb.pt", bytes(300 << 20), zipfile.ZIP_DEFLATED)
    assert "data.pkl is longer than" in refused(tmp_path / "bomb.pt")
    pickled_pt(tmp_path / "small.pt", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="its archive is compressed"):
        trial.try_out(tmp_path / "small.pt", None, None)


def test_a_meta_pkl_that_asks_for_gibibytes_is_refused(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    # a memo of 2**31 places, of which Python's unpickler makes an array
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04}r" + struct.pack("<I", 2**31 - 2) + b".")
    assert re.search("meta.pkl|memory", refused(tmp_path / "ckpt.pt"))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": [0]}, "itos": {}}))
    with pytest.raises(CheckpointError, match="meta.pkl"):
        trial.try_out(tmp_path / "ckpt.pt", None, None)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.int64),
    ],
    ids=["sparse", "meta", "complex", "integer"],
)
def test_tensors_that_are_no_plain_weights_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    saved["model"]["transformer.ln_f.weight"] = tensor
    torch.save(saved, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="served are plain ones of floating-point numbers|torch cannot read it"):
        trial.try_out(tmp_path / "odd.pt", None, None)


# --- what is no file --------------------------------------------------------------------------------------------------


def test_pipes_devices_and_links_to_nowhere_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "neither a file nor a directory" in refused(tmp_path / "pipe.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        read(tmp_path / "device.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "loop.gguf")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR])
def test_what_stands_in_the_place_of_a_file_is_refused_or_passed_over(kind: int, name: str, tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    (path / name).unlink()
    make: dict[int, Callable[[], Any]] = {
        stat.S_IFIFO: lambda: os.mkfifo(path / name),
        stat.S_IFDIR: (path / name).mkdir,
        stat.S_IFCHR: lambda: (path / name).symlink_to("/dev/zero"),
    }
    make[kind]()
    if name == "tokenizer_config.json":  # which a directory may lack
        read(path)
        return
    with pytest.raises(CheckpointError, match="lacks config.json|neither tokenizer.json|safetensors|cannot be read"):
        read(path)


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def test_control_characters_of_a_file_never_reach_the_terminal(tmp_path: Path) -> None:
    path = with_tensors(llama_directory(tmp_path), lambda header: header.update({"\x1b[2J\nroot# ": EMPTY}))
    said = refused(path)
    assert "\x1b" not in said and "does not have" in said
