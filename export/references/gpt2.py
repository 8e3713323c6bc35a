"""GPT-2 (Radford et al. 2019) in numpy, under the names of each project that trains it."""

from dataclasses import dataclass

import numpy as np

from export.references.transformer import Array, Transformer, gelu, gelu_tanh


@dataclass
class Gpt2(Transformer):
    """build-nanogpt's, nanoGPT's, minGPT's and llm.c's names; Hugging Face's too, with its Conv1D, which holds [in, out]."""

    prefix: str = "transformer."
    conv1d: bool = False
    exact_gelu: bool = False

    def embed(self, tokens: Array) -> Array:
        return self.t(f"{self.prefix}wte.weight")[tokens] + self.t(f"{self.prefix}wpe.weight")[: len(tokens)]

    def block(self, x: Array, layer: int) -> Array:
        block = f"{self.prefix}h.{layer}"
        hidden = self.linear(self.layer_norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = (self.split(part, self.heads) for part in np.split(hidden, 3, axis=-1))
        x = x + self.linear(self.attend(q, k, v), f"{block}.attn.c_proj")
        hidden = self.linear(self.layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        hidden = gelu(hidden) if self.exact_gelu else gelu_tanh(hidden)
        return x + self.linear(hidden, f"{block}.mlp.c_proj")

    def head(self, x: Array) -> Array:
        name = "lm_head.weight" if self.has("lm_head.weight") else f"{self.prefix}wte.weight"
        return self.layer_norm(x, f"{self.prefix}ln_f") @ self.t(name).T

    def linear(self, x: Array, name: str) -> Array:
        if not self.conv1d:
            return super().linear(x, name)
        return x @ self.t(f"{name}.weight") + self.t(f"{name}.bias")


@dataclass
class FirstMinGpt(Transformer):
    """minGPT of 2020 to June 2022."""

    def embed(self, tokens: Array) -> Array:
        return self.t("tok_emb.weight")[tokens] + self.t("pos_emb")[0, : len(tokens)]

    def block(self, x: Array, layer: int) -> Array:
        hidden = self.layer_norm(x, f"blocks.{layer}.ln1")
        q, k, v = (
            self.split(self.linear(hidden, f"blocks.{layer}.attn.{name}"), self.heads) for name in ("query", "key", "value")
        )
        x = x + self.linear(self.attend(q, k, v), f"blocks.{layer}.attn.proj")
        hidden = self.linear(self.layer_norm(x, f"blocks.{layer}.ln2"), f"blocks.{layer}.mlp.0")
        return x + self.linear(gelu(hidden), f"blocks.{layer}.mlp.2")

    def head(self, x: Array) -> Array:
        return self.linear(self.layer_norm(x, "ln_f"), "head")
