"""The models of GGUF files in numpy, on the stored tensors: see `export.references.transformer`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, log, pi, sqrt
from typing import Any

import numpy as np

from export.references.transformer import Array, Transformer, gelu, gelu_tanh, rotate_halves, rotate_pairs, silu


@dataclass
class Llama(Transformer):
    """Touvron et al. 2023, and Mistral. Subclasses override what differs."""

    metadata: Mapping[str, Any] = field(default_factory=dict)

    def m(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.metadata['general.architecture']}.{key}", default)

    def embed(self, tokens: Array) -> Array:
        return self.t("token_embd.weight")[tokens]

    def block(self, x: Array, layer: int) -> Array:
        x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
        return x + self.feed_forward(self.norm(x, f"blk.{layer}.ffn_norm"), f"blk.{layer}")

    def head(self, x: Array) -> Array:
        return self.linear(self.norm(x, "output_norm"), "output" if self.has("output.weight") else "token_embd")

    def norm(self, x: Array, name: str) -> Array:
        return self.rms_norm(x, name)

    def attention(self, x: Array, layer: int) -> Array:
        q, k, v = self.qkv(x, f"blk.{layer}")
        q, k = self.turn(q, layer), self.turn(k, layer)
        softcap = self.m("attn_logit_softcapping")
        attended = self.attend(q, k, v, window=self.window(layer), scale=self.m("attention.scale"), softcap=softcap)
        return self.linear(attended, f"blk.{layer}.attn_output")

    def qkv(self, x: Array, block: str) -> tuple[Array, Array, Array]:
        if self.has(f"{block}.attn_qkv.weight"):
            stacked = self.split(self.linear(x, f"{block}.attn_qkv"), self.heads + 2 * self.kv_heads)
            query, key, value = np.split(stacked, [self.heads, self.heads + self.kv_heads], axis=1)
            return query, key, value
        heads = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        query, key, value = (self.split(self.linear(x, f"{block}.attn_{one}"), count) for one, count in heads.items())
        return query, key, value

    def window(self, layer: int) -> int | None:
        return self.m("attention.sliding_window") or None

    def turn(self, x: Array, layer: int) -> Array:
        return rotate_pairs(x, self.scaled(), self.rotary_scale())

    def scaled(self) -> Array:
        """Frequencies of all pairs of a head: with the file's own factors, interpolated, or by YaRN."""
        turned = self.m("rope.dimension_count", self.head_dim)
        frequencies = self.frequencies(turned)
        for factors in ("rope_freqs.weight", "rope_factors_short.weight"):
            if self.has(factors):
                frequencies = frequencies / self.t(factors)
        kind, factor = (
            self.m("rope.scaling.type", "linear"),
            self.m("rope.scaling.factor") or self.m("rope.scale_linear") or 1.0,
        )
        if kind == "yarn":
            original = self.m("rope.scaling.original_context_length", self.m("context_length"))
            slow, fast = self.m("rope.scaling.yarn_beta_slow", 1.0), self.m("rope.scaling.yarn_beta_fast", 32.0)
            first, last = (turned * log(original / (2 * pi * turns)) / (2 * log(self.theta)) for turns in (fast, slow))
            begin, end = max(floor(first), 0), min(ceil(last), turned - 1)
            share = np.array([min(max((pair - begin) / max(end - begin, 0.001), 0), 1) for pair in range(turned // 2)])
            return frequencies * (1 - share) + frequencies / factor * share
        return frequencies / factor if kind == "linear" else frequencies

    def rotary_scale(self) -> float:
        scale, factor = self.m("rope.scaling.attn_factor", 1.0), self.m("rope.scaling.factor", 1.0)
        if self.m("rope.scaling.type") == "yarn":
            scale *= self.m("rope.scaling.yarn_attn_factor") or 1 + 0.1 * log(max(factor, 1))
        return float(scale)

    def feed_forward(self, x: Array, block: str) -> Array:
        gated = self.activated(self.linear(x, f"{block}.ffn_gate")) * self.linear(x, f"{block}.ffn_up")
        return self.linear(gated, f"{block}.ffn_down")

    def activated(self, x: Array) -> Array:
        return silu(x)


@dataclass
class Granite(Llama):
    """Mishra et al. 2024: multipliers everywhere."""

    def embed(self, tokens: Array) -> Array:
        return super().embed(tokens) * np.float32(self.m("embedding_scale") or 1)

    def attention(self, x: Array, layer: int) -> Array:
        return super().attention(x, layer) * np.float32(self.m("residual_scale") or 1)

    def feed_forward(self, x: Array, block: str) -> Array:
        return super().feed_forward(x, block) * np.float32(self.m("residual_scale") or 1)

    def head(self, x: Array) -> Array:
        return super().head(x) / np.float32(self.m("logit_scale") or 1)


@dataclass
class SmolLm3(Llama):
    def turn(self, x: Array, layer: int) -> Array:
        return x if (layer + 1) % 4 == 0 else super().turn(x, layer)


@dataclass
class Qwen2(Llama):
    """The halves of a head are turned, as in all below."""

    def turn(self, x: Array, layer: int) -> Array:
        return rotate_halves(x, self.scaled(), self.rotary_scale())


@dataclass
class Qwen3(Qwen2):
    def qkv(self, x: Array, block: str) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(x, block)
        return self.rms_norm(q, f"{block}.attn_q_norm"), self.rms_norm(k, f"{block}.attn_k_norm"), v


@dataclass
class Phi3(Qwen2):
    def feed_forward(self, x: Array, block: str) -> Array:
        gate, up = np.split(self.linear(x, f"{block}.ffn_up"), 2, axis=-1)
        return self.linear(silu(gate) * up, f"{block}.ffn_down")


@dataclass
class Gemma(Qwen2):
    """Norm weights have 1 already added."""

    def embed(self, tokens: Array) -> Array:
        return super().embed(tokens) * np.float32(sqrt(self.m("embedding_length")))

    def activated(self, x: Array) -> Array:
        return gelu_tanh(x)


@dataclass
class Gemma2(Gemma):
    """Norms after attention and MLP, too. Every second layer is global, the others use a window."""

    all_every = 2

    def block(self, x: Array, layer: int) -> Array:
        block = f"blk.{layer}"
        x = x + self.norm(self.attention(self.norm(x, f"{block}.attn_norm"), layer), f"{block}.post_attention_norm")
        return x + self.norm(self.feed_forward(self.norm(x, f"{block}.ffn_norm"), block), f"{block}.post_ffw_norm")

    def is_local(self, layer: int) -> bool:
        pattern = self.m("attention.sliding_window_pattern", self.all_every)
        own = pattern[layer] if isinstance(pattern, list) else pattern == 0 or (layer + 1) % pattern != 0
        return bool(own and self.m("attention.sliding_window"))

    def window(self, layer: int) -> int | None:
        return self.m("attention.sliding_window") if self.is_local(layer) else None

    def attend(self, q: Array, k: Array, v: Array, **settings: Any) -> Array:
        """The largest model's scores are divided by the root of another size."""
        width = self.m("embedding_length") / self.heads if self.layers in (46, 62) else self.head_dim
        return super().attend(q, k, v, **settings | {"scale": settings["scale"] or 1 / sqrt(width)})

    def head(self, x: Array) -> Array:
        logits, cap = super().head(x), np.float32(self.m("final_logit_softcapping") or 0)
        return np.tanh(logits / cap) * cap if cap else logits


@dataclass
class Gemma3(Gemma2):
    all_every = 6

    def qkv(self, x: Array, block: str) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(x, block)
        return self.rms_norm(q, f"{block}.attn_q_norm"), self.rms_norm(k, f"{block}.attn_k_norm"), v

    def turn(self, x: Array, layer: int) -> Array:
        if not self.is_local(layer):
            return super().turn(x, layer)
        theta = self.m("rope.freq_base_swa", 10000.0)
        return rotate_halves(x, theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim))


@dataclass
class Olmo2(Qwen2):
    """Norms only after attention and MLP. In OLMo 3, every fourth layer is global."""

    def block(self, x: Array, layer: int) -> Array:
        x = x + self.norm(self.attention(x, layer), f"blk.{layer}.post_attention_norm")
        return x + self.norm(self.feed_forward(x, f"blk.{layer}"), f"blk.{layer}.post_ffw_norm")

    def qkv(self, x: Array, block: str) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(x, block)
        q, k = (one.reshape(len(x), -1) for one in (q, k))
        q, k = self.rms_norm(q, f"{block}.attn_q_norm"), self.rms_norm(k, f"{block}.attn_k_norm")
        return self.split(q, self.heads), self.split(k, self.kv_heads), v

    def is_local(self, layer: int) -> bool:
        pattern = self.m("attention.sliding_window_pattern", 4)
        own = pattern[layer] if isinstance(pattern, list) else pattern == 0 or (layer + 1) % pattern != 0
        return bool(own and self.m("attention.sliding_window"))

    def window(self, layer: int) -> int | None:
        return self.m("attention.sliding_window") if self.is_local(layer) else None

    def turn(self, x: Array, layer: int) -> Array:
        return rotate_halves(x, self.frequencies(self.head_dim)) if self.is_local(layer) else super().turn(x, layer)


@dataclass
class StableLm(Qwen2):
    """Layer norms; if a layer has only one, attention and MLP share it."""

    def norm(self, x: Array, name: str) -> Array:
        return self.layer_norm(x, name)

    def block(self, x: Array, layer: int) -> Array:
        hidden = self.norm(x, f"blk.{layer}.attn_norm")
        after = x + self.attention(hidden, layer)
        if self.has(f"blk.{layer}.ffn_norm.weight"):
            hidden = self.norm(x if self.is_parallel() else after, f"blk.{layer}.ffn_norm")
        return after + self.feed_forward(hidden, f"blk.{layer}")

    def is_parallel(self) -> bool:
        return False


@dataclass
class StarCoder2(StableLm):
    def feed_forward(self, x: Array, block: str) -> Array:
        return self.linear(self.activated(self.linear(x, f"{block}.ffn_up")), f"{block}.ffn_down")

    def activated(self, x: Array) -> Array:
        return gelu_tanh(x)


@dataclass
class GptNeoX(StarCoder2):
    def is_parallel(self) -> bool:
        return bool(self.m("use_parallel_residual", True))

    def activated(self, x: Array) -> Array:
        return gelu(x)


@dataclass
class Gpt2(StarCoder2):
    def embed(self, tokens: Array) -> Array:
        return super().embed(tokens) + self.t("position_embd.weight")[: len(tokens)]

    def turn(self, x: Array, layer: int) -> Array:
        return x


MODELS: dict[str, type[Llama]] = {
    "llama": Llama,
    "granite": Granite,
    "smollm3": SmolLm3,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "phi3": Phi3,
    "gemma": Gemma,
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "olmo2": Olmo2,
    "stablelm": StableLm,
    "starcoder2": StarCoder2,
    "phi2": StarCoder2,
    "gptneox": GptNeoX,
    "gpt2": Gpt2,
    "starcoder": Gpt2,
}
DEFAULTS = {  # of models whose first files say nothing of it
    "gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096},
}


def reference(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Llama:
    name: str = metadata["general.architecture"]
    metadata = {f"{name}.{key}": value for key, value in DEFAULTS.get(name, {}).items()} | dict(metadata)
    heads, width = metadata[f"{name}.attention.head_count"], metadata[f"{name}.embedding_length"]
    epsilons = [metadata.get(f"{name}.attention.layer_norm_{kind}") for kind in ("rms_epsilon", "epsilon")]
    return MODELS[name](
        lambda tensor: tensors[tensor].read(),
        tensors.__contains__,
        layers=metadata[f"{name}.block_count"],
        heads=heads,
        kv_heads=metadata.get(f"{name}.attention.head_count_kv") or heads,
        head_dim=metadata.get(f"{name}.attention.key_length") or width // heads,
        epsilon=epsilons[0] or epsilons[1] or 1e-5,
        theta=metadata.get(f"{name}.rope.freq_base") or 10000.0,
        metadata=metadata,
    )
