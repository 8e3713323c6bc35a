"""Llama under llama2.c's names, on its raw tensors: see `export.references.transformer`."""

from export.references.transformer import Array, Transformer, rotate_pairs, silu


class Llama2c(Transformer):
    """Touvron et al. 2023; rotary pairs are adjacent, as in Meta's own code."""

    def embed(self, tokens: Array) -> Array:
        return self.t("tok_embeddings.weight")[tokens]

    def block(self, x: Array, layer: int) -> Array:
        block, frequencies = f"layers.{layer}", self.frequencies(self.head_dim)
        hidden = self.rms_norm(x, f"{block}.attention_norm")
        q = self.split(self.linear(hidden, f"{block}.attention.wq"), self.heads)
        k = self.split(self.linear(hidden, f"{block}.attention.wk"), self.kv_heads)
        v = self.split(self.linear(hidden, f"{block}.attention.wv"), self.kv_heads)
        attended = self.attend(rotate_pairs(q, frequencies), rotate_pairs(k, frequencies), v)
        x = x + self.linear(attended, f"{block}.attention.wo")
        hidden = self.rms_norm(x, f"{block}.ffn_norm")
        gated = silu(self.linear(hidden, f"{block}.feed_forward.w1")) * self.linear(hidden, f"{block}.feed_forward.w3")
        return x + self.linear(gated, f"{block}.feed_forward.w2")

    def head(self, x: Array) -> Array:
        return self.linear(self.rms_norm(x, "norm"), "output" if self.has("output.weight") else "tok_embeddings")
