"""Llama and its descendants, on Hugging Face's raw tensors: see `export.references.transformer`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from export.checkpoint import Architecture
from export.references.gpt import ACTIVATIONS
from export.references.transformer import Array, Transformer, rotate_halves, rotate_pairs


@dataclass(kw_only=True)
class Llama(Transformer):
    """Touvron et al. 2023. Of ``shape`` it takes what is no weight: frequencies, windows, scales of scores, caps."""

    shape: Architecture
    turned: int  # rotated dimensions of a head
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    @classmethod
    def of(cls, tensors: Mapping[str, Any], architecture: Architecture, /, **settings: Any) -> Self:
        return super().of(tensors, architecture, shape=architecture, **settings)

    def embed(self, tokens: Array) -> Array:
        return self.t("model.embed_tokens.weight")[tokens] * np.float32(self.embedding_scale)

    def block(self, x: Array, layer: int) -> Array:
        name, scale = f"model.layers.{layer}", np.float32(self.residual_scale)
        x = x + self.attention(self.norm(x, f"{name}.input_layernorm"), layer) * scale
        return x + self.mlp(self.norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp") * scale

    def head(self, x: Array) -> Array:
        name = "lm_head.weight" if self.has("lm_head.weight") else "model.embed_tokens.weight"
        logits = self.norm(x, "model.norm") @ self.t(name).T * np.float32(self.logit_scale)
        cap = self.shape.logit_softcap
        return logits if cap is None else np.tanh(logits / np.float32(cap)) * np.float32(cap)

    def norm(self, x: Array, name: str) -> Array:
        return self.rms_norm(x, name)

    def attention(self, x: Array, layer: int) -> Array:
        shape, name = self.shape, f"model.layers.{layer}.self_attn"
        q, k, v = self.qkv(x, name)
        kind = shape.layer_rotary[layer] if shape.layer_rotary else 0
        if kind is not None:
            q, k = self.rotate(q, kind), self.rotate(k, kind)
        window = shape.layer_window[layer] if shape.layer_window else None
        y = self.attend(q, k, v, window=window, scale=shape.attention_scale, softcap=shape.attention_softcap)
        return self.linear(y, f"{name}.o_proj")

    def qkv(self, x: Array, name: str) -> tuple[Array, Array, Array]:
        q, k, v = (self.linear(x, f"{name}.{part}_proj") for part in "qkv")
        return self.split(q, self.heads), self.split(k, self.kv_heads), self.split(v, self.kv_heads)

    def rotate(self, x: Array, kind: int) -> Array:
        rotary = self.shape.rotary[kind]
        return rotate_halves(x, np.array(rotary.frequencies[: self.turned // 2]), rotary.scale)

    def mlp(self, x: Array, name: str) -> Array:
        gate = self.activated(self.linear(x, f"{name}.gate_proj"))
        return self.linear(gate * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    @property
    def activated(self) -> Callable[[Array], Array]:
        return ACTIVATIONS[self.shape.activation]


class Qwen3(Llama):
    """Norms per head of queries and keys."""

    def qkv(self, x: Array, name: str) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(x, name)
        return self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm"), v


class Phi3(Llama):
    def qkv(self, x: Array, name: str) -> tuple[Array, Array, Array]:
        queries, keys = self.heads * self.head_dim, (self.heads + self.kv_heads) * self.head_dim
        q, k, v = np.split(self.linear(x, f"{name}.qkv_proj"), [queries, keys], axis=-1)
        return self.split(q, self.heads), self.split(k, self.kv_heads), self.split(v, self.kv_heads)

    def mlp(self, x: Array, name: str) -> Array:
        gate, up = np.split(self.linear(x, f"{name}.gate_up_proj"), 2, axis=-1)
        return self.linear(self.activated(gate) * up, f"{name}.down_proj")


class Olmo(Llama):
    """Groeneveld et al. 2024. Layer norms without weights."""

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(self.epsilon))


class Olmo2(Llama):
    """OLMo et al. 2025. Norms only after the sublayers; one norm over all queries, and one over all keys."""

    def block(self, x: Array, layer: int) -> Array:
        name = f"model.layers.{layer}"
        x = x + self.norm(self.attention(x, layer), f"{name}.post_attention_layernorm")
        return x + self.norm(self.mlp(x, f"{name}.mlp"), f"{name}.post_feedforward_layernorm")

    def qkv(self, x: Array, name: str) -> tuple[Array, Array, Array]:
        q, k = (self.norm(self.linear(x, f"{name}.{part}_proj"), f"{name}.{part}_norm") for part in "qk")
        v = self.linear(x, f"{name}.v_proj")
        return self.split(q, self.heads), self.split(k, self.kv_heads), self.split(v, self.kv_heads)


class StableLm(Llama):
    """Bellagente et al. 2024. ``shape.parallel``: attention and MLP read the same norm."""

    def norm(self, x: Array, name: str) -> Array:
        return self.layer_norm(x, name)

    def block(self, x: Array, layer: int) -> Array:
        if not self.shape.parallel:
            return super().block(x, layer)
        name = f"model.layers.{layer}"
        hidden = self.norm(x, f"{name}.input_layernorm")
        return x + self.attention(hidden, layer) + self.mlp(hidden, f"{name}.mlp")


class Starcoder2(Llama):
    """Lozhkov et al. 2024. Layer norms, and an MLP without a gate."""

    def norm(self, x: Array, name: str) -> Array:
        return self.layer_norm(x, name)

    def mlp(self, x: Array, name: str) -> Array:
        return self.linear(self.activated(self.linear(x, f"{name}.c_fc")), f"{name}.c_proj")


class Arcee(Llama):
    def mlp(self, x: Array, name: str) -> Array:
        return self.linear(self.activated(self.linear(x, f"{name}.up_proj")), f"{name}.down_proj")


class Helium(Llama):
    """Rotary pairs are adjacent rows of a head, as in ERNIE 4.5."""

    def rotate(self, x: Array, kind: int) -> Array:
        return rotate_pairs(x, np.array(self.shape.rotary[kind].frequencies))


class Gemma(Llama):
    """Gemma Team 2024. Norm weights are stored minus 1."""

    def norm(self, x: Array, name: str) -> Array:
        return self.rms(x) * (1 + self.t(f"{name}.weight"))


class Gemma2(Gemma):
    """Norms before and after the sublayers."""

    def block(self, x: Array, layer: int) -> Array:
        name = f"model.layers.{layer}"
        attended = self.attention(self.norm(x, f"{name}.input_layernorm"), layer)
        x = x + self.norm(attended, f"{name}.post_attention_layernorm")
        hidden = self.mlp(self.norm(x, f"{name}.pre_feedforward_layernorm"), f"{name}.mlp")
        return x + self.norm(hidden, f"{name}.post_feedforward_layernorm")


class Gemma3(Gemma2):
    """Norms per head of queries and keys."""

    def qkv(self, x: Array, name: str) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(x, name)
        return self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm"), v
