"""Hugging Face's GPT families on their raw tensors: see `export.references.transformer`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.references.transformer import Array, Transformer, gelu, gelu_tanh, relu, relu2, rotate_halves, rotate_pairs, silu

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "relu2": relu2,
    "silu": silu,
}


@dataclass
class Gpt(Transformer):
    """``turned``: rotated dimensions of a head; ``divisor``: of their frequencies ("linear" scaling)."""

    activation: str = "gelu"
    turned: int = 0
    divisor: float = 1.0

    def frequencies(self, turned: int) -> Array:
        return super().frequencies(turned) / self.divisor

    def feed_forward(self, x: Array, up: str, down: str) -> Array:
        return self.linear(ACTIVATIONS[self.activation](self.linear(x, up)), down)

    def project(self, x: Array, embedding: str, head: str = "lm_head") -> Array:
        """Computes logits, with the embedding if the file has no head."""
        return self.linear(x, head if self.has(f"{head}.weight") else embedding)

    def project_with_bias(self, x: Array, embedding: str) -> Array:
        """A head that the file ties to the embedding has its bias in the file all the same."""
        logits = self.project(x, embedding)
        own = self.has("lm_head.weight") or not self.has("lm_head.bias")
        return logits if own else logits + self.t("lm_head.bias")


@dataclass
class GptNeo(Gpt):
    """Black et al. 2021. Scores are not scaled; a local layer sees ``windows`` keys."""

    windows: tuple[int | None, ...] = ()

    def embed(self, tokens: Array) -> Array:
        return self.t("transformer.wte.weight")[tokens] + self.t("transformer.wpe.weight")[: len(tokens)]

    def block(self, x: Array, layer: int) -> Array:
        block = f"transformer.h.{layer}"
        attention, hidden = f"{block}.attn.attention", self.layer_norm(x, f"{block}.ln_1")
        q, k, v = (self.split(self.linear(hidden, f"{attention}.{letter}_proj"), self.heads) for letter in "qkv")
        x = x + self.linear(self.attend(q, k, v, window=self.windows[layer], scale=1.0), f"{attention}.out_proj")
        return x + self.feed_forward(self.layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", f"{block}.mlp.c_proj")

    def head(self, x: Array) -> Array:
        return self.project(self.layer_norm(x, "transformer.ln_f"), "transformer.wte")


@dataclass
class GptJ(Gpt):
    """Wang and Komatsuzaki 2021. Rotary pairs are adjacent; attention and MLP read the same norm."""

    def embed(self, tokens: Array) -> Array:
        return self.t("transformer.wte.weight")[tokens]

    def qkv(self, hidden: Array, attention: str) -> tuple[Array, ...]:
        return tuple(self.split(self.linear(hidden, f"{attention}.{letter}_proj"), self.heads) for letter in "qkv")

    def block(self, x: Array, layer: int) -> Array:
        block, frequencies = f"transformer.h.{layer}", self.frequencies(self.turned)
        hidden = self.layer_norm(x, f"{block}.ln_1")
        q, k, v = self.qkv(hidden, f"{block}.attn")
        attended = self.attend(rotate_pairs(q, frequencies), rotate_pairs(k, frequencies), v)
        x = x + self.linear(attended, f"{block}.attn.out_proj")
        return x + self.feed_forward(hidden, f"{block}.mlp.fc_in", f"{block}.mlp.fc_out")

    def head(self, x: Array) -> Array:
        return self.project_with_bias(self.layer_norm(x, "transformer.ln_f"), "transformer.wte")


@dataclass
class CodeGen(GptJ):
    """Nijkamp et al. 2022: GPT-J with queries, values and keys in one tensor, of four parts as it had four devices."""

    def qkv(self, hidden: Array, attention: str) -> tuple[Array, ...]:
        parts = self.linear(hidden, f"{attention}.qkv_proj").reshape(len(hidden), 4, 3, -1)
        q, v, k = (self.split(parts[:, :, one].reshape(len(hidden), -1), self.heads) for one in range(3))
        return q, k, v


@dataclass
class GptNeoX(Gpt):
    """Black et al. 2022. Queries, keys and values are stored together, head by head."""

    parallel: bool = True

    def embed(self, tokens: Array) -> Array:
        return self.t("gpt_neox.embed_in.weight")[tokens]

    def block(self, x: Array, layer: int) -> Array:
        block, frequencies = f"gpt_neox.layers.{layer}", self.frequencies(self.turned)
        heads = self.split(
            self.linear(self.layer_norm(x, f"{block}.input_layernorm"), f"{block}.attention.query_key_value"), self.heads
        )
        q, k, v = np.split(heads, 3, axis=-1)
        attended = self.attend(rotate_halves(q, frequencies), rotate_halves(k, frequencies), v)
        after = x + self.linear(attended, f"{block}.attention.dense")
        hidden = self.layer_norm(x if self.parallel else after, f"{block}.post_attention_layernorm")
        return after + self.feed_forward(hidden, f"{block}.mlp.dense_h_to_4h", f"{block}.mlp.dense_4h_to_h")

    def head(self, x: Array) -> Array:
        x = self.layer_norm(x, "gpt_neox.final_layer_norm")
        return self.project(x, "gpt_neox.embed_in", "embed_out" if self.has("embed_out.weight") else "lm_head")


@dataclass
class Phi(Gpt):
    """Phi 1 and 2. Attention and MLP read the same norm."""

    def embed(self, tokens: Array) -> Array:
        return self.t("model.embed_tokens.weight")[tokens]

    def block(self, x: Array, layer: int) -> Array:
        block, frequencies = f"model.layers.{layer}", self.frequencies(self.turned)
        hidden = self.layer_norm(x, f"{block}.input_layernorm")
        q = rotate_halves(self.split(self.linear(hidden, f"{block}.self_attn.q_proj"), self.heads), frequencies)
        k = rotate_halves(self.split(self.linear(hidden, f"{block}.self_attn.k_proj"), self.kv_heads), frequencies)
        v = self.split(self.linear(hidden, f"{block}.self_attn.v_proj"), self.kv_heads)
        x = x + self.linear(self.attend(q, k, v), f"{block}.self_attn.dense")
        return x + self.feed_forward(hidden, f"{block}.mlp.fc1", f"{block}.mlp.fc2")

    def head(self, x: Array) -> Array:
        return self.project_with_bias(self.layer_norm(x, "model.final_layernorm"), "model.embed_tokens")


@dataclass
class Opt(Gpt):
    """Zhang et al. 2022. Two rows precede position 0."""

    final_norm: bool = True

    def norm(self, x: Array, name: str) -> Array:
        """With a weight, where the model has any."""
        if self.has(f"{name}.weight"):
            return self.layer_norm(x, name)
        return self.rms(x - x.mean(-1, keepdims=True))

    def embed(self, tokens: Array) -> Array:
        positions = np.arange(len(tokens)) + 2
        return self.t("model.decoder.embed_tokens.weight")[tokens] + self.t("model.decoder.embed_positions.weight")[positions]

    def block(self, x: Array, layer: int) -> Array:
        block = f"model.decoder.layers.{layer}"
        hidden = self.norm(x, f"{block}.self_attn_layer_norm")
        q, k, v = (self.split(self.linear(hidden, f"{block}.self_attn.{letter}_proj"), self.heads) for letter in "qkv")
        x = x + self.linear(self.attend(q, k, v), f"{block}.self_attn.out_proj")
        return x + self.feed_forward(self.norm(x, f"{block}.final_layer_norm"), f"{block}.fc1", f"{block}.fc2")

    def head(self, x: Array) -> Array:
        x = self.norm(x, "model.decoder.final_layer_norm") if self.final_norm else x
        return self.project(x, "model.decoder.embed_tokens")


@dataclass
class GptBigCode(Gpt):
    """Ben Allal et al. 2023: a GPT-2 whose heads share one key and value, or whose QKV are stored together, head by head."""

    def embed(self, tokens: Array) -> Array:
        return self.t("transformer.wte.weight")[tokens] + self.t("transformer.wpe.weight")[: len(tokens)]

    def qkv(self, stacked: Array) -> list[Array]:
        if self.kv_heads == self.heads:
            return np.split(self.split(stacked, self.heads), 3, axis=-1)
        return np.split(self.split(stacked, self.heads + 2), [self.heads, self.heads + 1], axis=1)

    def block(self, x: Array, layer: int) -> Array:
        block = f"transformer.h.{layer}"
        q, k, v = self.qkv(self.linear(self.layer_norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn"))
        x = x + self.linear(self.attend(q, k, v), f"{block}.attn.c_proj")
        return x + self.feed_forward(self.layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", f"{block}.mlp.c_proj")

    def head(self, x: Array) -> Array:
        return self.project(self.layer_norm(x, "transformer.ln_f"), "transformer.wte")
