"""The two models that are measured: as ONNX in a repository for Triton, and as their peers load them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from export.demonstration import demonstration_checkpoint
from export.repository import Repository

PRECISION = "fp16"


@dataclass(frozen=True)
class Candidate:
    """One of the models."""

    title: str
    directory: Path  # in the repository
    checkpoint: Path
    kv_bytes: int  # a position's keys and values in fp16

    @property
    def version(self) -> Path:
        return self.directory / str(Repository(self.directory.parent).versions(self.directory.name)[-1])

    @property
    def weight_bytes(self) -> int:
        """That a step reads: all but a table that is looked up, but for those that share it with the head."""
        return sum(file.stat().st_size for file in self.version.glob("model.onnx*"))

    def load(self, device: str) -> Any:
        """As transformers has it, in fp16 on a GPU."""
        dtype = torch.float16 if device == "cuda" else torch.float32
        if self.checkpoint.suffix == ".gguf":
            found = transformers.AutoModelForCausalLM.from_pretrained(
                str(self.checkpoint.parent), gguf_file=self.checkpoint.name, dtype=dtype
            )
        else:
            found = transformers.AutoModelForCausalLM.from_pretrained(str(self.checkpoint), dtype=dtype)
        return found.eval().to(device)


def prepare(directory: Path, *, small: bool) -> list[Candidate]:
    """``small``: a GPT-2 of two layers alone, to try this out."""
    gpt2 = directory / "gpt2"
    if not (gpt2 / "config.json").exists():
        torch.manual_seed(0)
        sizes = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=64) if small else transformers.GPT2Config()
        transformers.GPT2LMHeadModel(sizes).save_pretrained(gpt2)
    repository = directory / "model_repository"
    made = [_export("GPT-2 124M", gpt2, repository, "--tokenizer", "gpt2")]
    return made if small else [_export("SmolLM2-135M", demonstration_checkpoint(), repository), *made]


def _export(title: str, checkpoint: Path, repository: Path, *options: str) -> Candidate:
    name = title.lower().replace(" ", "-")
    command = [sys.executable, "-m", "export", str(checkpoint), "--name", name, "--precision", PRECISION]
    subprocess.run([*command, *options, "--repository", str(repository)], check=True)
    config = transformers.AutoConfig.from_pretrained(
        str(checkpoint.parent if checkpoint.is_file() else checkpoint),
        **({"gguf_file": checkpoint.name} if checkpoint.is_file() else {}),
    )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = config.hidden_size // config.num_attention_heads
    return Candidate(title, repository / name, checkpoint, 2 * config.num_hidden_layers * heads * head_dim * 2)
