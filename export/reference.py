"""The checkpoint's own forward pass in fp32: what an export is judged by.

Written from each project's model code on the raw tensors under their raw names, and independent of `export.checkpoints`'
mapping, so that a wrong mapping shows. Each function returns ``run(tokens[n]) -> logits[n, vocabulary]``.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from math import erf, pi, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.checkpoint import CheckpointError

if TYPE_CHECKING:
    import torch

Run = Callable[[np.ndarray], np.ndarray]
Read = Callable[[str], np.ndarray]  # a raw tensor by its raw name, fp32


def torch_gpt2(state: Mapping[str, "torch.Tensor"], config: Mapping[str, Any], vocabulary: int, *, exact_gelu: bool) -> Run:
    """build-nanogpt and nanoGPT, in torch on their state dict."""
    import torch
    from torch.nn import functional as F

    heads, width, layers = config["n_head"], config["n_embd"], config["n_layer"]

    def bias(name: str) -> "torch.Tensor | None":
        return state[f"{name}.bias"].float() if f"{name}.bias" in state else None

    def norm(x: "torch.Tensor", name: str) -> "torch.Tensor":
        return F.layer_norm(x, (width,), state[f"{name}.weight"].float(), bias(name), 1e-5)

    def linear(x: "torch.Tensor", name: str) -> "torch.Tensor":
        return F.linear(x, state[f"{name}.weight"].float(), bias(name))

    def attention(x: "torch.Tensor", block: str) -> "torch.Tensor":
        q, k, v = (t.view(-1, heads, width // heads).transpose(0, 1) for t in linear(x, f"{block}.c_attn").split(width, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(0, 1).reshape(-1, width), f"{block}.c_proj")

    @torch.inference_mode()
    def run(tokens: np.ndarray) -> np.ndarray:
        ids = torch.as_tensor(np.asarray(tokens, np.int64))
        x = state["transformer.wte.weight"][ids].float() + state["transformer.wpe.weight"][: len(ids)].float()
        for layer in range(layers):
            block = f"transformer.h.{layer}"
            x = x + attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
            hidden = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="none" if exact_gelu else "tanh")
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        head = "lm_head" if "lm_head.weight" in state else "transformer.wte"
        return linear(norm(x, "transformer.ln_f"), head)[:, :vocabulary].numpy()

    return run


def huggingface(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Any], vocabulary: int) -> Run:
    """A Hugging Face model in transformers; where it or torch is not installed, in numpy."""
    if find_spec("torch") and find_spec("transformers"):
        return _transformers(directory, config["model_type"], vocabulary)

    prefix = {"gpt2": "transformer.", "llama": "model."}[config["model_type"]]

    def read(name: str) -> np.ndarray:
        return tensors[name if name in tensors else name.removeprefix(prefix)].read()

    if config["model_type"] == "gpt2":
        return lambda tokens: _numpy_gpt2(np.asarray(tokens), read, config)[:, :vocabulary]
    tied = config.get("tie_word_embeddings", False)
    rope = config.get("rope_parameters") or {}
    settings = {
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "epsilon": config.get("rms_norm_eps") or 1e-6,
        "theta": config.get("rope_theta") or rope.get("rope_theta") or 10000.0,
    }
    names = {
        "embedding": "model.embed_tokens",
        "final_norm": "model.norm",
        "head": "model.embed_tokens" if tied else "lm_head",
        "block": "model.layers.{}.",
        "norms": ("input_layernorm", "post_attention_layernorm"),
        "attention": [f"self_attn.{letter}_proj" for letter in "qkvo"],
        "mlp": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    }
    return lambda tokens: _numpy_llama(np.asarray(tokens), read, names, settings, _rotate_halves)[:, :vocabulary]


def gguf_llama(metadata: Mapping[str, Any], tensors: Mapping[str, Any], vocabulary: int) -> Run:
    """A GGUF Llama in numpy, with llama.cpp's interleaved rotary on the weights as they lie in the file."""
    heads = metadata["llama.attention.head_count"]
    settings = {
        "layers": metadata["llama.block_count"],
        "heads": heads,
        "kv_heads": metadata.get("llama.attention.head_count_kv", heads),
        "epsilon": metadata.get("llama.attention.layer_norm_rms_epsilon", 1e-5),
        "theta": metadata.get("llama.rope.freq_base", 10000.0),
    }
    names = {
        "embedding": "token_embd",
        "final_norm": "output_norm",
        "head": "output" if "output.weight" in tensors else "token_embd",
        "block": "blk.{}.",
        "norms": ("attn_norm", "ffn_norm"),
        "attention": ["attn_q", "attn_k", "attn_v", "attn_output"],
        "mlp": ["ffn_gate", "ffn_up", "ffn_down"],
    }

    def read(name: str) -> np.ndarray:
        return tensors[name].read()

    return lambda tokens: _numpy_llama(np.asarray(tokens), read, names, settings, _rotate_pairs)[:, :vocabulary]


def _transformers(directory: Path, kind: str, vocabulary: int) -> Run:
    @cache  # one copy of the weights, made at the first use
    def model() -> Any:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        family: Any = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}[kind]
        return family.from_pretrained(directory, dtype=torch.float32, local_files_only=True, use_safetensors=True).eval()

    def run(tokens: np.ndarray) -> np.ndarray:
        import torch

        try:
            with torch.inference_mode():
                logits = model()(torch.as_tensor(np.asarray(tokens, np.int64))[None], use_cache=False).logits
        except Exception as exc:  # its own checks of a configuration are many
            said = " ".join(str(exc).split())[:300]
            raise CheckpointError(f"{directory}: transformers cannot run it ({type(exc).__name__}: {said})") from exc
        return logits[0, :, :vocabulary].numpy()

    return run


def _numpy_gpt2(tokens: np.ndarray, read: Read, config: Mapping[str, Any]) -> np.ndarray:
    width, heads = config["n_embd"], config["n_head"]
    gelu = _gelu_exact if config.get("activation_function") == "gelu" else _gelu_tanh

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(config.get("layer_norm_epsilon") or 1e-5))
        return x * read(f"{name}.weight") + read(f"{name}.bias")

    def conv1d(x: np.ndarray, name: str) -> np.ndarray:
        return x @ read(f"{name}.weight") + read(f"{name}.bias")

    embedding = read("transformer.wte.weight")
    x = embedding[tokens] + read("transformer.wpe.weight")[: len(tokens)]
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}"
        q, k, v = np.split(
            conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").reshape(len(tokens), -1, width // heads), 3, 1
        )
        x = x + conv1d(_causal_attention(q, k, v), f"{block}.attn.c_proj")
        x = x + conv1d(gelu(conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")
    head = embedding if config.get("tie_word_embeddings", True) else read("lm_head.weight")
    return norm(x, "transformer.ln_f") @ head.T


def _numpy_llama(
    tokens: np.ndarray,
    read: Read,
    names: Mapping[str, Any],
    settings: Mapping[str, Any],
    rotate: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(settings["epsilon"])) * read(f"{name}.weight")

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ read(f"{name}.weight").T

    embedding = read(f"{names['embedding']}.weight")
    x = embedding[tokens]
    for layer in range(settings["layers"]):
        block = names["block"].format(layer)
        query, key, value, out = (block + name for name in names["attention"])
        gate, up, down = (block + name for name in names["mlp"])
        before_attention, before_mlp = (block + name for name in names["norms"])
        hidden = norm(x, before_attention)
        q = linear(hidden, query).reshape(len(tokens), settings["heads"], -1)
        k = linear(hidden, key).reshape(len(tokens), settings["kv_heads"], -1)
        v = linear(hidden, value).reshape(len(tokens), settings["kv_heads"], -1)
        angles = _angles(len(tokens), q.shape[-1], settings["theta"])
        x = x + linear(_causal_attention(rotate(q, angles), rotate(k, angles), v), out)
        hidden = norm(x, before_mlp)
        gated = linear(hidden, gate)
        x = x + linear(gated / (1 + np.exp(-gated)) * linear(hidden, up), down)
    head = embedding if names["head"] == names["embedding"] else read(f"{names['head']}.weight")
    return norm(x, names["final_norm"]) @ head.T


def _causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q [n, heads, d] over k, v [n, kv_heads, d]: [n, heads * d]; one head at a time, for memory's sake."""
    n, heads, d = q.shape
    future = np.triu(np.full((n, n), -np.inf, np.float32), 1)
    shared = heads // k.shape[1]
    out = np.empty_like(q)
    for head in range(heads):
        scores = q[:, head] @ k[:, head // shared].T / np.float32(sqrt(d)) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, head // shared]
    return out.reshape(n, heads * d)


def _angles(n: int, d: int, theta: float) -> np.ndarray:
    """[n, 1, d / 2]: position times frequency."""
    return (np.arange(n)[:, None] * theta ** (-np.arange(0, d, 2) / d))[:, None]


def _rotate_halves(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _rotate_pairs(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(sqrt(2 / pi)) * (x + np.float32(0.044715) * x * x * x)))


def _gelu_exact(x: np.ndarray) -> np.ndarray:
    return (0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))).astype(np.float32)
