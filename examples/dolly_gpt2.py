"""From training to chat: a small GPT-2, fine-tuned on instructions in Dolly's form, saved as build-nanogpt saves.

    .venv/bin/python -m examples.dolly_gpt2 log/dolly.pt             # some minutes on 2 cores
    MODEL_CHECKPOINT=log/dolly.pt CHAT_TEMPLATE=dolly make serve

The records are those of examples/tides.jsonl, or of ``--records``: databricks-dolly-15k.jsonl has the same form. It begins with
random weights, since none are to be had offline, so it knows nothing but its records; `model.load_state_dict` of a pretrained
checkpoint before the training is all that real fine-tuning adds.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from export.text.tokenizers import gpt2

RECORDS = Path(__file__).with_name("tides.jsonl")
END = 50256  # <|endoftext|>
BATCH, LEARNING_RATE, LEARNED = 12, 2e-3, 0.03  # records, -, nats a token at which a training has nothing left to learn


@dataclass
class GPTConfig:
    block_size: int = 128
    vocab_size: int = 50304  # 50257 tokens, padded to a multiple of 128
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128


class Block(nn.Module):
    def __init__(self, config: Any, gelu: str) -> None:
        super().__init__()
        width = config.n_embd
        self.heads, self.gelu = config.n_head, gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width)
        x = x + self.attn["c_proj"](mixed)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=self.gelu))


def _begin(part: nn.Module) -> None:
    if isinstance(part, nn.Linear | nn.Embedding):
        nn.init.normal_(part.weight, std=0.02)


class GPT(nn.Module):
    """GPT-2, its tensors named as in build-nanogpt (whose GELU is the "tanh" one) and nanoGPT ("none": the exact one)."""

    def __init__(self, config: Any, gelu: str = "tanh") -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList([Block(config, gelu) for _ in range(config.n_layer)]),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(_begin)
        self.transformer["wte"].weight = self.lm_head.weight  # one matrix at both ends

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """int64 [rows, length] twice; a target of -1 is not to be learned. The mean loss in nats a token."""
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"].children():
            x = block(x)
        wanted = targets >= 0  # logits are made for these alone: they are most of the work of a small model
        return F.cross_entropy(self.lm_head(self.transformer["ln_f"](x[wanted])), targets[wanted])


def example(record: dict[str, str], tokenizer: Tokenizer, length: int) -> tuple[list[int], list[int]]:
    """Tokens and targets of a record, ``length`` of each: the response is learned, and that it ends."""
    context = f"### Context:\n{record['context']}\n\n" if record["context"] else ""
    asked = tokenizer.encode(f"### Instruction:\n{record['instruction']}\n\n{context}### Response:\n").ids
    answered = [*tokenizer.encode(record["response"]).ids, END]
    tokens = (asked + answered)[: length + 1]
    padding = [END] * (length + 1 - len(tokens))
    targets = [-1] * (len(asked) - 1) + tokens[len(asked) :] + [-1] * len(padding)
    return (tokens + padding)[:length], targets[:length]


def train(model: GPT, tokens: torch.Tensor, targets: torch.Tensor, steps: int) -> float:
    """Ends at ``steps``, or as soon as everything is learned. The last epoch's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    epoch = -(-len(tokens) // BATCH)  # steps
    losses = [float("inf")]
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(len(tokens))
        chosen = order[step % epoch * BATCH :][:BATCH]
        loss = model(tokens[chosen], targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses = [*losses, loss.item()][-epoch:]
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
        if max(losses) < LEARNED:
            break
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="where the checkpoint goes, such as log/dolly.pt")
    parser.add_argument("--records", type=Path, default=RECORDS, help="a .jsonl of instruction, context and response")
    parser.add_argument("--steps", type=int, default=400, help="at most (default: %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(1337)
    tokenizer = Tokenizer.from_str(gpt2().tokenizer_json)
    records = [json.loads(line) for line in options.records.read_text("utf-8").splitlines()]
    model = GPT(GPTConfig())
    examples = [example(record, tokenizer, model.config.block_size) for record in records]
    tokens, targets = (torch.tensor(column) for column in zip(*examples, strict=True))
    longest = int((targets >= 0).nonzero()[:, 1].max()) + 1
    loss = train(model, tokens[:, :longest], targets[:, :longest], options.steps)
    options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"model": model.state_dict(), "config": model.config, "step": options.steps, "val_loss": loss}, options.checkpoint
    )
    print(f"{options.checkpoint}: {len(records)} records, loss {loss:.3f}")


if __name__ == "__main__":
    main()
