"""llm.c's .bin files: a header of 256 numbers, and weights in fp32 or bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared
from tests.export.nanogpt_model import GPT, Sizes

KINDS = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
    "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip


def written(path: Path, version: int = 3, rows: int = 50257, padded: int = 50304, **header: int) -> samples.Logits:
    """As `write_model` of train_gpt2.py writes it; the model's logits with the weights as they lie in the file."""
    sizes = Sizes(vocab_size=padded, block_size=64, n_embd=16, n_head=2)
    model = GPT(sizes)
    generator = torch.Generator().manual_seed(0)
    kind = {3: torch.float32, 5: torch.bfloat16}.get(version, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.4).to(kind).float())
    state = model.state_dict()
    names = ["transformer.wte.weight", "transformer.wpe.weight"]
    names += [f"transformer.h.{layer}.{kind}" for kind in KINDS for layer in range(2)]
    names += ["transformer.ln_f.weight", "transformer.ln_f.bias"]
    numbers = np.zeros(256, np.int32)
    fields = {"magic": 20240326, "version": version, "context": 64, "rows": rows, "layers": 2, "heads": 2, "width": 16}
    numbers[:8] = [*(fields | {"padded": padded} | header).values()]
    weights = [state[name].to(kind).view(torch.int16 if version == 5 else torch.float32).numpy().tobytes() for name in names]
    path.write_bytes(b"".join([numbers.tobytes(), *weights]))

    @torch.inference_mode()
    def logits(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(model(torch.as_tensor(tokens)[None])[0, :, :rows].numpy())

    return logits


def test_llm_cs_own_checkpoint_says_what_it_said_there(tmp_path: Path) -> None:
    folder = shared("llm.c-v3-fp32")
    checkpoint = assert_as_written(folder / "model_00000100.bin", folder, tmp_path)
    assert checkpoint.architecture.vocabulary_size == 50257


@pytest.mark.parametrize("version", [3, 5], ids=["fp32", "bfloat16"])
def test_both_versions_compute_what_the_model_computes(version: int, tmp_path: Path) -> None:
    original = written(tmp_path / "model.bin", version)
    checkpoint = read(tmp_path / "model.bin")
    assert checkpoint.tokenizer.end_tokens == (50256,)
    tokens = np.random.default_rng(0).integers(0, 50257, 40)
    expected = original(tokens)
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), tokens.tolist(), chunk=16), expected)
    assert_same_logits(checkpoint.reference(tokens), expected)


def test_another_vocabulary_needs_its_tokenizer(tmp_path: Path) -> None:
    written(tmp_path / "model.bin", rows=len(samples.CHARACTERS), padded=128)
    with pytest.raises(CheckpointError, match=r"name the tokenizer it was trained with \(TOKENIZER\)"):
        read(tmp_path / "model.bin")
    samples.write_meta(tmp_path / "meta.pkl", samples.CHARACTERS)
    checkpoint = read(tmp_path / "model.bin", tokenizer=str(tmp_path / "meta.pkl"))
    assert checkpoint.weights["embedding"].shape == (len(samples.CHARACTERS), 16)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"magic": 20240327}, "it is the state of a training of llm.c, not the model"),
        ({"magic": 20240803}, "it is a Llama 3 of llm.c"),
        ({"version": 1}, r"it is version 1 of llm.c's files; served are 3 \(fp32\) and 5 \(bfloat16\)"),
        ({"layers": 0}, "num_layers = 0, allowed are 1 to 1024"),
        ({"heads": 3}, "its width 16 is not a multiple of its 3 heads"),
        ({"width": -16}, "channels = -16"),
        ({"rows": 50305}, "vocab_size = 50305, more than padded_vocab_size = 50304"),
        ({"layers": 1024}, "its header asks for .* bytes of weights, it has .*: it is cut short or damaged"),
        ({"context": 1 << 24, "width": 1 << 24}, "its header asks for .* it is cut short or damaged"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_header_that_cannot_be_served_is_named(header: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path / "model.bin", **header)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.bin")


@pytest.mark.parametrize("kept", [64, 1000, 1024, -1])
def test_a_file_that_is_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    written(tmp_path / "whole.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "whole.bin").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="it is cut short"):
        read(tmp_path / "cut.bin")


def test_the_directory_of_a_training_stands_for_its_last_model(tmp_path: Path) -> None:
    for step in (100, 19560, 5000):
        written(tmp_path / f"model_{step:08d}.bin")
    (tmp_path / "state_00019560_00000.bin").touch()
    (tmp_path / "main.log").touch()
    assert read(tmp_path).name == "model_00019560.bin"
