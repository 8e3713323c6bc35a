"""Directories of Hugging Face: which files hold the weights, and which directory inside another is the model."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.checkpoints.huggingface import FAMILIES, find
from tests.export.families import assert_same_logits
from tests.export.samples import logits_of
from tests.export.transformers_models import TOKENS, assert_as_transformers, saved


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_of_torch_are_read_where_there_are_no_safetensors(shards: int, tmp_path: Path) -> None:
    model = saved("llama", tmp_path)
    as_pickles(tmp_path, shards)
    assert_as_transformers(tmp_path, model)
    assert_same_logits(read(tmp_path).reference(np.array(TOKENS)), logits_of(model)(np.array(TOKENS)))  # in transformers


def as_pickles(directory: Path, shards: int = 1) -> None:
    tensors = list(load_file(directory / "model.safetensors").items())
    (directory / "model.safetensors").unlink()
    if shards == 1:
        torch.save(dict(tensors), directory / "pytorch_model.bin")
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        torch.save(dict(tensors[number::shards]), directory / name)
        weight_map |= {tensor: name for tensor, _ in tensors[number::shards]}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


OTHERS: dict[str, tuple[bytes, str]] = {
    "tf_model.h5": (b"", r"neither \*.safetensors nor pytorch_model.bin, which hold the weights; it holds tf_model.h5"),
    "training_args.bin": (b"", "it holds training_args.bin"),
    "pytorch_model.bin": (b"\x80\x02", "pytorch_model.bin is a bare pickle, as torch.save wrote before version 1.6"),
    "model.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "model.safetensors is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_directory_without_weights_that_can_be_read_is_refused_with_what_it_holds(name: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    content, said = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path)


def test_an_adapter_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge it into the model it was trained on"):
        read(tmp_path)


def model_at(directory: Path) -> Path:
    """What makes a directory one of Hugging Face's, no more."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


def test_the_model_inside_a_directory_is_found(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--something"
    model_at(repository / "snapshots" / "0old")
    current = model_at(repository / "snapshots" / "1current")
    os.utime(current, (0, 0))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1current")
    assert find(repository) == current
    (repository / "refs" / "main").write_text("gone")
    assert find(repository) == repository / "snapshots" / "0old"  # the newest

    training = tmp_path / "training"
    for step in (9, 500, 1000):
        model_at(training / f"checkpoint-{step}")
    assert find(training) == training / "checkpoint-1000"
    final = model_at(training / "final")
    assert find(training) == final
    model_at(training / "other")
    assert find(training) is None  # it is unclear which is meant
    assert find(final) == final


def test_a_gguf_beside_a_configuration_is_left_to_its_own_reader(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").touch()
    assert find(tmp_path) is None


def test_every_model_type_has_a_reader_that_transformers_or_a_project_knows() -> None:
    ours = {"minimind", "Tiny-K"}
    assert set(FAMILIES) - ours <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
