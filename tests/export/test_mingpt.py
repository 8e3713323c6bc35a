"""minGPT's model.pt: a bare state dict, beside what its projects leave there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import mingpt, read
from tests.export import samples
from tests.export.families import assert_same_logits, decoder_of, prefill

State = dict[str, torch.Tensor]
NANO = {"n_layer": 3, "n_head": 3, "n_embd": 48}
TEXT = samples.CHARACTERS[::-1] * 2
FIRST_NAMES = {
    "transformer.wte": "tok_emb",
    "transformer.wpe.weight": "pos_emb",
    "transformer.ln_f": "ln_f",
    "lm_head": "head",
    "transformer.h": "blocks",
    "ln_1": "ln1",
    "ln_2": "ln2",
    "attn.c_proj": "attn.proj",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}


def current(**sizes: Any) -> tuple[State, samples.Logits]:
    """With causal masks, and a head that is not the embedding."""
    state, logits = samples.gpt2_state(**NANO | sizes)
    masks = {
        name.replace("c_attn.weight", "bias"): torch.ones(1, 1, 64, 64).tril() for name in state if "c_attn.weight" in name
    }
    return state | masks, logits


def first(**sizes: Any) -> tuple[State, samples.Logits]:
    """As until June 2022: other names, the exact GELU."""
    state, logits = samples.gpt2_state(**NANO | {"approximate": "none"} | sizes)
    renamed: State = {}
    for name, tensor in state.items():
        for old, new in FIRST_NAMES.items():
            name = name.replace(old, new)
        if "c_attn" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("c_attn", part)] = rows.clone()
        else:
            renamed[name] = tensor[None] if name == "pos_emb" else tensor
    return renamed | {f"blocks.{layer}.attn.mask": torch.ones(1, 1, 64, 64).tril() for layer in range(3)}, logits


def assert_computes(checkpoint: Checkpoint, original: samples.Logits, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, checkpoint.architecture.vocabulary_size, 40)
    expected = original(tokens)[:, : checkpoint.architecture.vocabulary_size]
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), tokens.tolist(), chunk=16), expected)
    assert_same_logits(checkpoint.reference(tokens), expected)


@pytest.mark.parametrize("make", [current, first])
def test_both_generations_compute_what_the_model_computes(
    make: Callable[..., tuple[State, samples.Logits]], tmp_path: Path
) -> None:
    state, original = make()
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    checkpoint = read(tmp_path / "model.pt")
    assert checkpoint.architecture.heads == 3  # as gpt-nano has
    assert_computes(checkpoint, original, tmp_path)


def test_a_model_with_gpt2s_tokens_has_its_tokenizer(tmp_path: Path) -> None:
    state, original = current(vocab_size=50257)
    torch.save(state, tmp_path / "model.pt")
    checkpoint = read(tmp_path / "model.pt")
    assert checkpoint.tokenizer.end_tokens == (50256,)
    assert_computes(checkpoint, original, tmp_path)


def chargpt(project: Path, text: str, **model: Any) -> Path:
    """As projects/chargpt/chargpt.py leaves it. Returns the directory of the model."""
    directory = project / "out" / "chargpt"
    directory.mkdir(parents=True)
    torch.save(current()[0], directory / "model.pt")
    (directory / "config.json").write_text(json.dumps({"system": {}, "model": {"n_head": None} | model}))
    (project / "input.txt").write_text(text, encoding="utf-8")
    return directory


def test_the_characters_are_those_of_the_text_in_their_order(tmp_path: Path) -> None:
    checkpoint = read(chargpt(tmp_path, TEXT) / "model.pt")
    ids = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json).encode("Tide 你").ids
    in_order = sorted(set(TEXT))
    assert ids == [in_order.index(character) for character in "Tide 你"]


def test_a_text_of_other_characters_is_named(tmp_path: Path) -> None:
    directory = chargpt(tmp_path, "tide")
    with pytest.raises(CheckpointError, match=r"its vocabulary has 64 tokens, .*/input.txt has 4 characters"):
        read(directory / "model.pt")
    (tmp_path / "input.txt").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"input.txt is not UTF-8 text"):
        read(directory / "model.pt")
    (tmp_path / "input.txt").unlink()
    with pytest.raises(CheckpointError, match=r"put the input.txt it was trained on beside it.*\(TOKENIZER\)"):
        read(directory / "model.pt")


@pytest.mark.parametrize(
    ("model", "options", "heads"),
    [
        ({}, {}, 3),
        ({"n_head": 6}, {}, 6),
        ({"model_type": "gpt-micro"}, {}, 4),
        ({"n_head": 6}, {"heads": 2}, 2),
    ],
    ids=["by its sizes", "n_head", "model_type", "HEADS"],
)
def test_heads_are_those_of_the_configuration_or_of_the_sizes(
    model: dict[str, Any], options: dict[str, Any], heads: int, tmp_path: Path
) -> None:
    assert read(chargpt(tmp_path, TEXT, **model) / "model.pt", **options).architecture.heads == heads


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    torch.save(current(n_layer=2)[0], tmp_path / "model.pt")
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"how many heads its width of 48 is divided into: set HEADS \(--heads\)"):
        read(tmp_path / "model.pt")


def test_a_bare_state_dict_of_another_project_is_not_taken_for_mingpts(tmp_path: Path) -> None:
    torch.save(samples.gpt2_state(**NANO)[0], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="it is a bare state dict without minGPT's masks"):
        read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pos_emb": torch.ones(64, 48)}, r"its tensor pos_emb has shape \[64, 48\]"),
        ({"blocks.0.attn.more": torch.ones(3)}, "does not have: blocks.0.attn.more"),
        ({"blocks.0.attn.key.weight": torch.ones(48, 47)}, r"its tensor blocks.0.attn.key.weight has shape \[48, 47\]"),
        ({"tok_emb.weight": "text"}, "it is no state dict: 'tok_emb.weight' is a str"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    torch.save(first()[0] | change, tmp_path / "model.pt")
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.pt")


def test_the_directory_of_a_training_stands_for_its_model(tmp_path: Path) -> None:
    directory = chargpt(tmp_path, TEXT)
    assert mingpt.find(directory) == directory / "model.pt"
    assert mingpt.find(tmp_path) is None
