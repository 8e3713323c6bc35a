"""The models of Sebastian Raschka's books in numpy."""

from dataclasses import dataclass

import numpy as np

from export.references.transformer import Array, Transformer, gelu_tanh, rotate_halves, silu


@dataclass
class LlmsFromScratch(Transformer):
    """GPTModel, chapters 4 to 7 of "Build a Large Language Model (From Scratch)"; and GPTModelFast."""

    def embed(self, tokens: Array) -> Array:
        return self.t("tok_emb.weight")[tokens] + self.t("pos_emb.weight")[: len(tokens)]

    def block(self, x: Array, layer: int) -> Array:
        block = f"trf_blocks.{layer}"
        x = x + self.attention(self.layer_norm(x, f"{block}.norm1"), f"{block}.att")
        hidden = self.linear(self.layer_norm(x, f"{block}.norm2"), f"{block}.ff.layers.0")
        return x + self.linear(gelu_tanh(hidden), f"{block}.ff.layers.2")

    def attention(self, x: Array, name: str) -> Array:
        if self.has(f"{name}.qkv.weight"):
            q, k, v = np.moveaxis(self.linear(x, f"{name}.qkv").reshape(len(x), 3, self.heads, -1), 1, 0)
            return self.linear(self.attend(q, k, v), f"{name}.proj")
        q = self.split(self.linear(x, f"{name}.W_query"), self.heads)
        k, v = (self.split(self.linear(x, f"{name}.{part}"), self.kv_heads) for part in ("W_key", "W_value"))
        return self.linear(self.attend(q, k, v), f"{name}.out_proj")

    def layer_norm(self, x: Array, name: str) -> Array:
        if self.has(f"{name}.weight"):
            return super().layer_norm(x, name)
        variance = x.var(-1, keepdims=True)
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + np.float32(self.epsilon))
        return self.t(f"{name}.scale") * normed + self.t(f"{name}.shift")

    def head(self, x: Array) -> Array:
        return self.linear(self.layer_norm(x, "final_norm"), "out_head")


@dataclass
class Qwen3FromScratch(Transformer):
    """Qwen3Model: norms per head of queries and keys, before rotary positions."""

    def embed(self, tokens: Array) -> Array:
        return self.t("tok_emb.weight")[tokens]

    def block(self, x: Array, layer: int) -> Array:
        block = f"trf_blocks.{layer}"
        x = x + self.attention(self.scaled(x, f"{block}.norm1"), f"{block}.att")
        hidden = self.scaled(x, f"{block}.norm2")
        gated = silu(self.linear(hidden, f"{block}.ff.fc1")) * self.linear(hidden, f"{block}.ff.fc2")
        return x + self.linear(gated, f"{block}.ff.fc3")

    def attention(self, x: Array, name: str) -> Array:
        q = self.scaled(self.split(self.linear(x, f"{name}.W_query"), self.heads), f"{name}.q_norm")
        k = self.scaled(self.split(self.linear(x, f"{name}.W_key"), self.kv_heads), f"{name}.k_norm")
        v = self.split(self.linear(x, f"{name}.W_value"), self.kv_heads)
        frequencies = self.frequencies(self.head_dim)
        return self.linear(self.attend(rotate_halves(q, frequencies), rotate_halves(k, frequencies), v), f"{name}.out_proj")

    def scaled(self, x: Array, name: str) -> Array:
        return self.rms(x) * self.t(f"{name}.scale")

    def head(self, x: Array) -> Array:
        return self.linear(self.scaled(x, "final_norm"), "out_head")
