"""Small seeded checkpoints of every kind, saved as the original projects save them.

Each function returns the model itself, as a function `tokens[n] -> logits[n, rows]` in torch, to judge readers and exports by.
Weights are drawn much wider than a training starts with, so that every tensor matters to the logits.
"""

import contextlib
import copy
import json
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.export.nanogpt_model import GPT, Sizes

Logits = Callable[[np.ndarray], np.ndarray]
CHARACTERS = "\n !',-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz你好"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_nanogpt(path: Path, *, module: str = "__main__", resumed: bool = False, seed: int = 0, **sizes: Any) -> Logits:
    """As build-nanogpt's train_gpt2.py; ``module``: where GPTConfig was defined; ``resumed`` adds optimizer, RNG states."""
    settings = Sizes(**sizes)
    model = drawn(GPT(settings), seed)
    fields = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")
    with class_of(module, "GPTConfig", fields) as config_class:
        config = config_class(**{field: getattr(settings, field) for field in fields})
        checkpoint = {"model": model.state_dict(), "config": config, "step": 40000, "val_loss": 3.05}
        if resumed:
            checkpoint |= _training_state(model)
        torch.save(checkpoint, path)
    return logits_of(model)


def nanogpt(
    path: Path,
    *,
    bias: bool = True,
    compiled_prefix: bool = False,
    meta: str | None = CHARACTERS,
    approximate: str = "none",
    seed: int = 0,
    **sizes: Any,
) -> Logits:
    """As nanoGPT's train.py; ``meta``: the characters of a meta.pkl beside it, None: GPT-2's BPE and no meta.pkl."""
    given: dict[str, Any] = {"vocab_size": len(meta) if meta else 50304} | sizes
    settings = Sizes(**given, bias=bias, approximate=approximate)
    model = drawn(GPT(settings), seed)
    prefix = "_orig_mod." if compiled_prefix else ""
    fields = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")
    checkpoint = {
        "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": _training_state(model)["optimizer"],
        "model_args": {field: getattr(settings, field) for field in fields} | {"dropout": 0.0},
        "iter_num": 5000,
        "best_val_loss": torch.tensor(1.47),
        "config": {"out_dir": "out", "dataset": "shakespeare_char", "device": "cpu", "compile": compiled_prefix},
    }
    torch.save(checkpoint, path)
    if meta:
        write_meta(path.parent / "meta.pkl", meta)
    return logits_of(model)


def gpt2_state(*, seed: int = 0, **sizes: Any) -> tuple[dict[str, torch.Tensor], Logits]:
    """The state dict of a GPT-2 with a head of its own, under GPT-2's names, for projects that have others."""
    settings = Sizes(**{"vocab_size": len(CHARACTERS), "block_size": 64} | sizes)
    model: Any = GPT(settings)
    model.lm_head = nn.Linear(settings.n_embd, settings.vocab_size, bias=False)
    drawn(model, seed)
    return model.state_dict(), logits_of(model)


def write_meta(path: Path, characters: str) -> None:
    stoi = {character: number for number, character in enumerate(characters)}
    itos = dict(enumerate(characters))
    path.write_bytes(pickle.dumps({"vocab_size": len(characters), "itos": itos, "stoi": stoi}))


def hf_gpt2(directory: Path, *, seed: int = 0, tokenizer: bool = True, **config: Any) -> Logits:
    """As transformers' save_pretrained; ``config`` overrides GPT2Config's fields."""
    count = small_tokenizer().get_vocab_size()
    sizes = {"vocab_size": count + 7, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    model = drawn(GPT2LMHeadModel(GPT2Config(**sizes | config)), seed)
    model.save_pretrained(directory)
    if tokenizer:
        save_tokenizer(directory)
    return logits_of(model)


def hf_llama(directory: Path, *, seed: int = 0, shards: bool = False, dtype: str = "float32", **config: Any) -> Logits:
    """As transformers' save_pretrained; ``config`` overrides LlamaConfig's fields, ``shards`` makes several files."""
    model = _llama(seed, **config)
    for parameter in model.parameters():  # and not the rotary frequencies, which are computed in fp32
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    rounded = copy.deepcopy(model).to(getattr(torch, dtype))
    rounded.save_pretrained(directory, max_shard_size="60KB" if shards else "5GB")
    save_tokenizer(directory)
    return logits_of(model)


def gguf_llama(path: Path, quantization: str = "Q8_0", *, seed: int = 0, tied: bool = True, **metadata: Any) -> Logits:
    """As llama.cpp's converter: rotary rows permuted; ``metadata`` overrides or (None) drops keys."""
    model = _llama(seed, tie_word_embeddings=tied)
    kind = GGMLQuantizationType[quantization]
    config: Any = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    _write_bpe(writer, config.vocab_size)
    for key, value in metadata.items():
        writer.kv_data[0].pop(key.replace("__", "."), None)
        if value is not None:
            writer.add_string(key.replace("__", "."), value)
    state = model.state_dict()
    for name, tensor in state.items():
        if name == "lm_head.weight" and tied:
            continue
        array = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        array = _permuted(array, heads) if heads else array
        raw = quantize(array, kind) if array.ndim == 2 else array
        writer.add_tensor(_gguf_name(name), raw, raw_dtype=kind if array.ndim == 2 else None)
        if array.ndim == 2:  # judge by what the file holds
            exact = dequantize(raw, kind)
            tensor.copy_(torch.from_numpy(np.array(_unpermuted(exact, heads) if heads else exact)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return logits_of(model)


def small_tokenizer() -> Tokenizer:
    """A byte-level BPE with a few merges and the special tokens of a chat model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(["the tide comes in and the tide goes out, and the gate holds the water"] * 4, trainer)
    return tokenizer


def save_tokenizer(directory: Path, template: str = CHAT_TEMPLATE) -> None:
    small_tokenizer().save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>", "special": True}}
    (directory / "tokenizer_config.json").write_text(json.dumps(names | {"chat_template": template}))


def _llama(seed: int, **config: Any) -> LlamaForCausalLM:
    count = small_tokenizer().get_vocab_size()
    sizes: dict[str, Any] = {
        "vocab_size": count,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True, "eos_token_id": 2}
    sizes |= {"bos_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return drawn(LlamaForCausalLM(LlamaConfig(**sizes | config)), seed)


def drawn(model: nn.Module, seed: int) -> Any:
    """Nothing of what the modules drew for themselves stays: the same seed always gives the same model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.randn(parameter.shape, generator=generator)
            mean = 1.0 if name.endswith("weight") else 0.0  # of a norm's weight, or of a bias
            parameter.copy_(spread * 0.85 / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else mean + 0.2 * spread)
    return model.eval()


def logits_of(model: nn.Module) -> Logits:
    @torch.inference_mode()
    def run(tokens: np.ndarray) -> np.ndarray:
        out = model(torch.as_tensor(np.asarray(tokens, np.int64))[None])
        return getattr(out, "logits", out)[0].numpy()

    return run


@contextlib.contextmanager
def class_of(module: str, name: str, fields: Sequence[str]) -> Iterator[type]:
    """A dataclass that pickles as ``module.name``; the module is gone afterwards, as it is for whoever reads the file."""
    made = make_dataclass(name, [(field, int) for field in fields])
    made.__module__ = module
    saved = {part: sys.modules.get(part) for part in _parents(module)}
    had = getattr(sys.modules.get(module), name, None)
    try:
        for part in saved:
            sys.modules.setdefault(part, ModuleType(part))
        setattr(sys.modules[module], name, made)
        yield made
    finally:
        if had is None:
            delattr(sys.modules[module], name)
        for part, before in saved.items():
            if before is None:
                del sys.modules[part]


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _training_state(model: nn.Module) -> dict[str, Any]:
    """What a resumable run saves besides: the optimizer after a step, and the states of three random generators."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "torch_rng_state": torch.get_rng_state(),
        "numpy_rng_state": np.random.get_state(),
        "python_rng_state": random.getstate(),
        "best_loss": np.float64(3.05),
    }


def _write_bpe(writer: GGUFWriter, count: int) -> None:
    model = json.loads(small_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert len(tokens) == count
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def _permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's converter on query and key rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    for old, new in {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }.items():  # fmt: skip
        name = name.replace(old, new)
    return name
