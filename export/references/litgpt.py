"""litgpt's GPT (Lightning-AI/litgpt, model.py) on its raw tensors, by the fields of its Config."""

from dataclasses import dataclass, field
from math import pi, sqrt
from typing import Any

import numpy as np

from export.references.transformer import Array, Transformer, gelu, gelu_tanh, rotate_halves, rotate_pairs, silu


@dataclass
class LitGpt(Transformer):
    config: dict[str, Any] = field(default_factory=dict)
    model: str = ""  # its name

    def embed(self, tokens: Array) -> Array:
        x = self.t("transformer.wte.weight")[tokens]
        return x * np.float32(sqrt(x.shape[-1])) if self.config.get("scale_embeddings") else x

    def block(self, x: Array, layer: int) -> Array:
        block, config = f"transformer.h.{layer}", self.config
        normed = self.norm(x, f"{block}.norm_1") if config.get("norm_1", True) else x
        attended = self.attention(normed, f"{block}.attn", layer)
        after = x + (self.norm(attended, f"{block}.post_attention_norm") if config.get("post_attention_norm") else attended)
        if not config.get("shared_attention_norm"):
            normed = x if config.get("parallel_residual", True) else after
            normed = self.norm(normed, f"{block}.norm_2") if config.get("norm_2", True) else normed
        out = self.mlp(normed, f"{block}.mlp")
        return after + (self.norm(out, f"{block}.post_mlp_norm") if config.get("post_mlp_norm") else out)

    def attention(self, x: Array, name: str, layer: int) -> Array:
        config = self.config
        q, k, v = self.qkv(x, name)
        if config.get("norm_qk"):
            q, k = self.head_norm(q, f"{name}.norm_q"), self.head_norm(k, f"{name}.norm_k")
        frequencies = self.frequencies_of(layer)
        rotate = rotate_pairs if config.get("rope_interleave") else rotate_halves
        attended = self.attend(
            rotate(q, frequencies),
            rotate(k, frequencies),
            v,
            window=self.window(layer),
            scale=1 / sqrt(config.get("attention_scores_scalar") or self.head_dim),
            softcap=config.get("attention_logit_softcapping"),
        )
        return self.linear(attended, f"{name}.proj")

    def qkv(self, x: Array, name: str) -> list[Array]:
        """In one tensor; until December 2024 group by group."""
        heads, groups = self.heads, self.kv_heads
        if self.has(f"{name}.qkv.weight"):
            stacked = self.split(self.linear(x, f"{name}.qkv"), heads + 2 * groups)
            return np.split(stacked, [heads, heads + groups], axis=1)
        stacked = self.linear(x, f"{name}.attn").reshape(len(x), groups, -1, self.head_dim)
        q, k, v = stacked[:, :, :-2], stacked[:, :, -2], stacked[:, :, -1]
        return [q.reshape(len(x), heads, -1), k, v]

    def head_norm(self, x: Array, name: str) -> Array:
        """Per head, or over all heads together."""
        if self.config.get("norm_qk_type") == "olmo2":
            return self.norm(x.reshape(len(x), -1), name).reshape(x.shape)
        return self.norm(x, name)

    def norm(self, x: Array, name: str) -> Array:
        if self.config.get("norm_class_name", "LayerNorm") == "RMSNorm":
            return self.rms(x) * (self.t(f"{name}.weight") + np.float32("Gemma" in self.model))
        return self.rms(x - x.mean(-1, keepdims=True)) if "OLMo" in self.model else self.layer_norm(x, name)

    def mlp(self, x: Array, name: str) -> Array:
        kind = self.config.get("mlp_class_name", "GptNeoxMLP")
        act = silu if kind == "LLaMAMLP" else gelu_tanh if self.config.get("gelu_approximate") == "tanh" else gelu
        if kind == "GptNeoxMLP":
            return self.linear(act(self.linear(x, f"{name}.fc")), f"{name}.proj")
        return self.linear(act(self.linear(x, f"{name}.fc_1")) * self.linear(x, f"{name}.fc_2"), f"{name}.proj")

    def frequencies_of(self, layer: int) -> Array:
        config, turned = self.config, int(self.config.get("rotary_percentage", 0.25) * self.head_dim)
        exponents, local = -np.arange(0, turned, 2) / turned, config.get("rope_local_base_freq")
        if local is not None and (config.get("rope_indices") or [1] * self.layers)[layer]:
            return np.asarray(float(local) ** exponents / config.get("rope_condense_ratio", 1))
        return self.adjusted(float(config.get("rope_base", 10000)) ** exponents) / config.get("rope_condense_ratio", 1)

    def adjusted(self, frequencies: Array) -> Array:
        adjustments = self.config.get("rope_adjustments")
        if adjustments is None:
            return frequencies
        slow = frequencies / adjustments["factor"]
        if "low_freq_factor" not in adjustments:
            return slow
        low, high = adjustments["low_freq_factor"], adjustments["high_freq_factor"]
        turns = adjustments["original_max_seq_len"] * frequencies / (2 * pi)
        smooth = np.minimum(np.maximum((turns - low) / (high - low), 0), 1)
        return (1 - smooth) * slow + smooth * frequencies

    def window(self, layer: int) -> int | None:
        config = self.config
        if config.get("sliding_window_layer_placing") in ("interleaved", 2):
            local = layer % 2 == 0
        else:
            local = (config.get("sliding_window_indices") or [1] * self.layers)[layer]
        return config.get("sliding_window_size") if local else None

    def head(self, x: Array) -> Array:
        logits = self.linear(self.norm(x, "transformer.ln_f"), "lm_head")
        cap = self.config.get("final_logit_softcapping")
        return np.tanh(logits / np.float32(cap)) * np.float32(cap) if cap else logits
