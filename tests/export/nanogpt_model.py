"""The GPT of build-nanogpt and of nanoGPT in torch: written here, so that what readers and exports compute is judged by it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Sizes:
    block_size: int = 128
    vocab_size: int = 50304
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 32
    bias: bool = True
    approximate: str = "tanh"


class LayerNorm(nn.Module):
    """nanoGPT's: torch's own has no `bias=False` in older versions."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.c_attn = nn.Linear(sizes.n_embd, 3 * sizes.n_embd, bias=sizes.bias)
        self.c_proj = nn.Linear(sizes.n_embd, sizes.n_embd, bias=sizes.bias)
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.size()
        q, k, v = (t.view(B, T, self.sizes.n_head, -1).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
        return self.c_proj((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(B, T, C))


class MLP(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.c_fc = nn.Linear(sizes.n_embd, 4 * sizes.n_embd, bias=sizes.bias)
        self.gelu = nn.GELU(approximate=sizes.approximate)
        self.c_proj = nn.Linear(4 * sizes.n_embd, sizes.n_embd, bias=sizes.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(sizes.n_embd, sizes.bias), CausalSelfAttention(sizes)
        self.ln_2, self.mlp = LayerNorm(sizes.n_embd, sizes.bias), MLP(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The model of build-nanogpt's train_gpt2.py and of nanoGPT's model.py, which name their tensors alike."""

    transformer: Any

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(sizes.vocab_size, sizes.n_embd),
                "wpe": nn.Embedding(sizes.block_size, sizes.n_embd),
                "h": nn.ModuleList([Block(sizes) for _ in range(sizes.n_layer)]),
                "ln_f": LayerNorm(sizes.n_embd, sizes.bias),
            }
        )
        self.lm_head = nn.Linear(sizes.n_embd, sizes.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.size(1)))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
