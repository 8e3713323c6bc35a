"""nanochat on its raw tensors, in its own form and in transformers': see `export.references.transformer`."""

from dataclasses import dataclass

import numpy as np

from export.references.transformer import Array, Model, Transformer, relu2, rotate_halves, sigmoid


@dataclass
class _NanoChat(Model):
    """What both forms share: norms without weights, positions that turn back, a norm of queries and keys behind them."""

    softcap: float | None = None

    def attended(self, x: Array, names: tuple[str, str, str], value: Array | float = 0.0, window: int | None = None) -> Array:
        """``names`` of the layers of queries, keys and values; ``value`` [n, kv_heads, head_dim] is added to the last."""
        q, k, v = (
            self.split(self.linear(x, name), heads)
            for name, heads in zip(names, (self.heads, self.kv_heads, self.kv_heads), strict=True)
        )
        back = -self.frequencies(self.head_dim)
        q, k = (self.sharpened(self.rms(rotate_halves(part, back))) for part in (q, k))
        return self.attend(q, k, v + value, window=window)

    def sharpened(self, x: Array) -> Array:
        return x

    def capped(self, logits: Array) -> Array:
        if self.softcap is None:
            return logits
        cap = np.float32(self.softcap)
        return np.asarray(np.tanh(logits / cap) * cap)


@dataclass
class NanoChat(_NanoChat):
    """As its gpt.py has it, of any time: what there are no tensors for is left out."""

    windows: tuple[int | None, ...] = ()
    qk_scale: float = 1.0
    gate_scale: float = 2.0

    def __call__(self, tokens: Array) -> Array:
        tokens = np.asarray(tokens, np.int64)
        x = first = self.smeared(self.embed(tokens))
        for layer in range(self.layers):
            if self.has("resid_lambdas"):
                x = self.t("resid_lambdas")[layer] * x
            if self.has("x0_lambdas"):
                x = x + self.t("x0_lambdas")[layer] * first
            x = self.part(x, layer, tokens)
            if layer == self.layers // 2:
                middle = x
        if self.has("backout_lambda"):
            x = x - self.t("backout_lambda") * middle
        return self.capped(self.linear(self.rms(x), "lm_head"))

    def embed(self, tokens: Array) -> Array:
        return self.rms(self.t("transformer.wte.weight")[tokens])

    def smeared(self, x: Array) -> Array:
        """Each token has a gated part of the one before."""
        if not self.has("smear_gate.weight"):
            return x
        gate = self.t("smear_lambda") * sigmoid(self.linear(x[1:, :24], "smear_gate"))
        return np.concatenate([x[:1], x[1:] + gate * x[:-1]])

    def part(self, x: Array, layer: int, tokens: Array) -> Array:
        block = f"transformer.h.{layer}"
        hidden = self.rms(x)
        value: Array = np.zeros((), np.float32)
        if self.has(f"value_embeds.{layer}.weight"):
            value = self.split(self.t(f"value_embeds.{layer}.weight")[tokens], self.kv_heads)
            channels = self.t(f"{block}.attn.ve_gate.weight").shape[1]
            gate = self.gate_scale * sigmoid(self.linear(hidden[:, :channels], f"{block}.attn.ve_gate"))
            value = gate[:, :, None] * value
        query, key, values = (f"{block}.attn.c_{letter}" for letter in "qkv")
        attended = self.attended(hidden, (query, key, values), value, self.windows[layer])
        x = x + self.linear(attended, f"{block}.attn.c_proj")
        return x + self.linear(relu2(self.linear(self.rms(x), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")

    def sharpened(self, x: Array) -> Array:
        return x * np.float32(self.qk_scale)


@dataclass
class HuggingFaceNanoChat(_NanoChat, Transformer):
    """Of transformers: nanochat as it was until January 2026."""

    def embed(self, tokens: Array) -> Array:
        return self.rms(self.t("model.embed_tokens.weight")[tokens])

    def block(self, x: Array, layer: int) -> Array:
        block = f"model.layers.{layer}"
        query, key, value = (f"{block}.self_attn.{letter}_proj" for letter in "qkv")
        x = x + self.linear(self.attended(self.rms(x), (query, key, value)), f"{block}.self_attn.o_proj")
        return x + self.linear(relu2(self.linear(self.rms(x), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")

    def head(self, x: Array) -> Array:
        return self.capped(self.linear(self.rms(x), "lm_head" if self.has("lm_head.weight") else "model.embed_tokens"))
