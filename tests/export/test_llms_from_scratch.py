"""Models of "Build a Large Language Model (From Scratch)": bare state dicts in the book's names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.chat_environment import compile_template, render
from tests.export import samples
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared

State = dict[str, torch.Tensor]
RENAMED = {
    "transformer.wte": "tok_emb",
    "transformer.wpe": "pos_emb",
    "transformer.ln_f": "final_norm",
    "lm_head": "out_head",
    "transformer.h": "trf_blocks",
    "attn.c_proj": "att.out_proj",
    "mlp.c_fc": "ff.layers.0",
    "mlp.c_proj": "ff.layers.2",
    "ln_1": "norm1",
    "ln_2": "norm2",
}
HEADS, BLOCK = 4, 64


def book(*, qkv_bias: bool = True, masks: bool = True, **sizes: Any) -> tuple[State, samples.Logits]:
    """As `GPTModel` of chapter 4."""
    state, logits = samples.gpt2_state(**sizes)
    renamed: State = {}
    for name, tensor in state.items():
        if "attn.c_attn" in name and not qkv_bias and name.endswith("bias"):
            tensor.zero_()  # the model's own: its logits are those of no bias
            continue
        name = _renamed(name)
        if "attn.c_attn" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("attn.c_attn", f"att.W_{part}")] = rows.clone()
        elif "norm" in name:
            renamed[name.replace(".weight", ".scale").replace(".bias", ".shift")] = tensor
        else:
            renamed[name] = tensor
    if masks:
        renamed |= {f"trf_blocks.{layer}.att.mask": torch.ones(BLOCK, BLOCK).triu(1) for layer in range(2)}
    return renamed, logits


def fast() -> tuple[State, samples.Logits]:
    """As `GPTModelFast`, with torch's own norm and attention."""
    state, logits = samples.gpt2_state()
    names = {"attn.c_attn": "att.qkv", "att.out_proj": "att.proj"}
    return {_renamed(_renamed(name), names): tensor for name, tensor in state.items()}, logits


def grouped() -> tuple[State, samples.Logits]:
    """As `gpt_with_kv_gqa.py`: two heads of keys and values, and an output without a bias."""
    state, logits = book(qkv_bias=False, masks=False)
    original, _ = samples.gpt2_state()
    model, logits = samples.gpt2_state()
    for layer in range(2):
        attention = f"transformer.h.{layer}.attn"
        model[f"{attention}.c_attn.bias"].zero_()
        model[f"{attention}.c_proj.bias"].zero_()
        del state[f"trf_blocks.{layer}.att.out_proj.bias"]
        for place, part in enumerate(("key", "value"), 1):
            rows = original[f"{attention}.c_attn.weight"][32 * place :][:16].clone()
            state[f"trf_blocks.{layer}.att.W_{part}.weight"] = rows
            model[f"{attention}.c_attn.weight"][32 * place :][:32] = rows.view(2, 8, 32).repeat_interleave(2, 0).view(32, 32)
    return state, logits


def _renamed(name: str, names: dict[str, str] = RENAMED) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def resumable() -> tuple[dict[str, Any], samples.Logits]:
    state, logits = book()
    return {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.1}]}}, logits


def compiled() -> tuple[State, samples.Logits]:
    state, logits = book()
    return {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, logits


VARIANTS: dict[str, Callable[[], tuple[dict[str, Any], samples.Logits]]] = {
    "as pretrained": book,
    "without biases of q, k, v": lambda: book(qkv_bias=False),
    "with a KV cache": lambda: book(masks=False),
    "beside its optimizer": resumable,
    "compiled": compiled,
    "fast": fast,
    "grouped queries": grouped,
}


@pytest.fixture
def characters(tmp_path: Path) -> str:
    samples.write_meta(tmp_path / "meta.pkl", samples.CHARACTERS)
    return str(tmp_path / "meta.pkl")


def test_the_books_own_checkpoint_says_what_it_said_there(tmp_path: Path) -> None:
    folder = shared("llms-from-scratch")
    checkpoint = assert_as_written(folder / "model.pth", folder, tmp_path, heads=1)
    assert checkpoint.architecture.context_length == 64


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_what_the_model_computes(variant: str, characters: str, tmp_path: Path) -> None:
    saved, original = VARIANTS[variant]()
    torch.save(saved, tmp_path / "model.pth")
    checkpoint = read(tmp_path / "model.pth", tokenizer=characters, heads=HEADS)
    tokens = np.random.default_rng(0).integers(0, len(samples.CHARACTERS), 40)
    expected = original(tokens)
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), tokens.tolist(), chunk=16), expected)
    assert_same_logits(checkpoint.reference(tokens), expected)


def test_the_width_of_a_gpt2_tells_its_heads(characters: str, tmp_path: Path) -> None:
    torch.save(book(n_embd=768, n_layer=1, masks=False)[0], tmp_path / "model.pth")
    assert read(tmp_path / "model.pth", tokenizer=characters).architecture.heads == 12
    assert read(tmp_path / "model.pth", tokenizer=characters, heads=6).architecture.heads == 6


def test_heads_that_nothing_tells_are_asked_for(characters: str, tmp_path: Path) -> None:
    torch.save(book()[0], tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"how many heads its width of 32 is divided into: set HEADS \(--heads\)"):
        read(tmp_path / "model.pth", tokenizer=characters)
    with pytest.raises(CheckpointError, match="its width 32 is not a multiple of its 5 heads"):
        read(tmp_path / "model.pth", tokenizer=characters, heads=5)


def test_the_tokenizer_is_gpt2s_or_asked_for(tmp_path: Path) -> None:
    torch.save(book(vocab_size=50257)[0], tmp_path / "gpt2.pth")
    assert read(tmp_path / "gpt2.pth", heads=HEADS).tokenizer.end_tokens == (50256,)
    torch.save(book()[0], tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"name the tokenizer it was trained with \(TOKENIZER\)"):
        read(tmp_path / "other.pth", heads=HEADS)


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(name)}


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "a classifier": (
        lambda state: state | {"out_head.weight": torch.ones(2, 32), "out_head.bias": torch.ones(2)},
        r"it is a classifier of 2 classes \(chapter 6\)",
    ),
    "one of the later models": (lambda state: without(state, "pos_emb"), "one of the book's later models"),
    "latent attention": (
        lambda state: without(state, "trf_blocks.0.att.W_key"),
        "lacks the tensor trf_blocks.0.att.W_key.weight",
    ),
    "experts": (
        lambda state: state | {"trf_blocks.1.ff.gate.weight": torch.ones(2, 32)},
        "this kind of model does not have: trf_blocks.1.ff.gate.weight",
    ),
    "no embedding": (lambda state: without(state, "tok_emb"), "lacks the tensor tok_emb.weight"),
    "an embedding of one dimension": (
        lambda state: state | {"tok_emb.weight": torch.ones(32)},
        r"its tensor tok_emb.weight has shape \[32\], expected is a matrix",
    ),
    "another width in the middle": (
        lambda state: state | {"trf_blocks.1.norm2.shift": torch.ones(31)},
        r"its tensor trf_blocks.1.norm2.shift has shape \[31\]",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_gpt_of_the_book_is_refused(kind: str, characters: str, tmp_path: Path) -> None:
    change, said = REFUSED[kind]
    torch.save(change(book()[0]), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.pth", tokenizer=characters, heads=HEADS)


def test_a_model_that_was_fine_tuned_on_instructions_gets_its_prompt(tmp_path: Path) -> None:
    torch.save(book(vocab_size=50257)[0], tmp_path / "gpt2-medium355M-sft.pth")
    template = read(tmp_path / "gpt2-medium355M-sft.pth", heads=HEADS).tokenizer.chat_template
    assert template is not None
    messages = [{"role": "user", "content": "Name a tide."}]
    assert render(compile_template(template), {"messages": messages, "add_generation_prompt": True}) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a tide.\n\n### Response:\n"
    )
    (tmp_path / "gpt2-medium355M-sft.pth").rename(tmp_path / "model.pth")
    assert read(tmp_path / "model.pth", heads=HEADS).tokenizer.chat_template is None


def qwen3(**config: Any) -> tuple[State, samples.Logits]:
    """As `Qwen3Model`, whose weights come from Hugging Face's."""
    rope = {"rope_type": "default", "rope_theta": 1e6}
    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_parameters": rope}
    model = samples.drawn(Qwen3ForCausalLM(Qwen3Config(**sizes | config)), 0)
    names = {
        "model.embed_tokens": "tok_emb",
        "model.layers": "trf_blocks",
        "model.norm.weight": "final_norm.scale",
        "lm_head": "out_head",
        "input_layernorm.weight": "norm1.scale",
        "post_attention_layernorm.weight": "norm2.scale",
        "self_attn.q_proj": "att.W_query",
        "self_attn.k_proj": "att.W_key",
        "self_attn.v_proj": "att.W_value",
        "self_attn.o_proj": "att.out_proj",
        "self_attn.q_norm.weight": "att.q_norm.scale",
        "self_attn.k_norm.weight": "att.k_norm.scale",
        "mlp.gate_proj": "ff.fc1",
        "mlp.up_proj": "ff.fc2",
        "mlp.down_proj": "ff.fc3",
    }
    return {_renamed(name, names): tensor for name, tensor in model.state_dict().items()}, samples.logits_of(model)


@pytest.mark.parametrize("tied", [True, False])
def test_the_books_qwen3_computes_what_qwen3_computes(tied: bool, tmp_path: Path) -> None:
    state, original = qwen3(tie_word_embeddings=tied)
    torch.save(state, tmp_path / "qwen3-0.6B.pth")
    samples.small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    checkpoint = read(tmp_path / "qwen3-0.6B.pth")
    tokens = np.random.default_rng(0).integers(0, checkpoint.architecture.vocabulary_size, 40)
    expected = original(tokens)[:, : checkpoint.architecture.vocabulary_size]
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), tokens.tolist(), chunk=16), expected)
    assert_same_logits(checkpoint.reference(tokens), expected)
    assert checkpoint.tokenizer.chat_template is not None
    messages = [{"role": "user", "content": "Hi"}]
    assert render(
        compile_template(checkpoint.tokenizer.chat_template), {"messages": messages, "add_generation_prompt": True}
    ) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_books_qwen3_looks_for_the_tokenizer_that_it_is_downloaded_with(tmp_path: Path) -> None:
    torch.save(qwen3()[0], tmp_path / "qwen3-0.6B-base.pth")
    samples.small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="looked for tokenizer-base.json beside it; name it by TOKENIZER"):
        read(tmp_path / "qwen3-0.6B-base.pth")
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer-base.json")
    assert read(tmp_path / "qwen3-0.6B-base.pth").tokenizer.chat_template is None
