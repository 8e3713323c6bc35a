"""An export of a Hugging Face directory that is broken or hostile: one sentence, bounded memory and time, and no trace."""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export.strangers import TERABYTE, holed, llama_directory, refused, safetensors_header


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
        ({"shape": [1 << 20, 1 << 18]}, "invalid shape, data type, or offset"),
        ({"shape": [-64]}, "`-64`, expected usize"),
        ({"shape": [-8, -8]}, "`-8`, expected usize"),
        ({"shape": [1 << 62, 4]}, "overflow"),
        ({"shape": [64.0]}, "`64.0`, expected usize"),
        ({"shape": [True] * 70}, "`true`, expected usize"),
        ({"data_offsets": [0, 10**18]}, "invalid offset"),
        ({"data_offsets": [-256, 0]}, "`-256`, expected usize"),
        ({"data_offsets": [512, 256]}, "invalid offset"),
        ({"data_offsets": [0]}, "expected a tuple of size 2"),
        ({"data_offsets": [0, 256]}, "invalid offset"),
        ({"dtype": "I64"}, "invalid shape, data type, or offset"),
        ({"dtype": "I64", "shape": [32]}, "lacks the tensors model.norm.weight"),
        ({"dtype": "x" * 10**6}, "unknown variant `xxxx"),
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


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_export_of_weights_that_are_no_numbers_says_one_sentence(value: float, tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][:] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    said = refused(path)
    expected = "the logits hold NaN or infinity" if value == 3e38 else "model.layers.1.mlp.up_proj.weight holds NaN or infinity"
    assert expected in said


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
