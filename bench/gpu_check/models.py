"""The two models that are measured: as ONNX in a repository for Triton, and as a directory that transformers reads."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file

from bench import weights
from bench.gpu_check.plan import Task
from export.demonstration import demonstration_checkpoint
from export.repository import Repository

PRECISION = "fp16"
GPT2, SMOLLM2 = "GPT-2 124M", "SmolLM2-135M"
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 64}
WHOLE = {"n_layer": 12, "n_head": 12, "n_embd": 768}


@dataclass(frozen=True)
class Candidate:
    """One of the models."""

    title: str
    directory: Path  # in the repository
    checkpoint: Path  # a Hugging Face directory

    @property
    def version(self) -> Path:
        return self.directory / str(Repository(self.directory.parent).versions(self.directory.name)[-1])

    @property
    def weight_bytes(self) -> int:
        """That a step reads: all but a table that is looked up, but for those that share it with the head."""
        return sum(file.stat().st_size for file in self.version.glob("model.onnx*"))

    @property
    def kv_bytes(self) -> int:
        """A position's keys and values."""
        graph = onnx.load(str(self.version / "model.onnx"), load_external_data=False).graph
        shapes = [one.type.tensor_type.shape.dim for one in graph.input if one.name.startswith("past_key_values.")]
        return sum(heads.dim_value * head_dim.dim_value * 2 for _, heads, _, head_dim in shapes)


def prepare(title: str, out: Path, *, small: bool) -> Candidate:
    """GPT-2 has random weights, and two layers if ``small``. Nothing is exported again where it is there already."""
    repository = out / "model_repository"
    if title == SMOLLM2:
        return _export(title, demonstration_checkpoint(), weights.huggingface(out / "smollm2"), repository)
    checkpoint = random_gpt2(out / "gpt2", **(SMALL if small else WHOLE))
    return _export(title, checkpoint, checkpoint, repository, "--tokenizer", "gpt2")


def prepared(task: Task, title: str) -> Candidate:
    """SystemExit where no section has made it."""
    for document in (task.out / "prepare.json", task.out / "smollm2-export.json"):
        if document.exists() and (one := json.loads(document.read_text()).get("models", {}).get(title)):
            return Candidate(title, Path(one["directory"]), Path(one["checkpoint"]))
    raise SystemExit(f"gpu-check: {title} was not exported")


def random_gpt2(directory: Path, *, seed: int = 0, n_layer: int, n_head: int, n_embd: int) -> Path:
    """As transformers initialises it. Nothing is done where it exists already."""
    if (directory / "config.json").exists():
        return directory
    config: dict[str, object] = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": n_embd,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    config |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256, "eos_token_id": 50256}
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return random.normal(0, scale, shape).astype(np.float32)

    tensors = {"transformer.wte.weight": normal(50257, n_embd), "transformer.wpe.weight": normal(1024, n_embd)}
    norms = ["transformer.ln_f"]
    for layer in (f"transformer.h.{number}" for number in range(n_layer)):
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
        for name, into, out in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
            scale = 0.02 / (2 * n_layer) ** 0.5 if name.endswith("c_proj") else 0.02
            tensors[f"{layer}.{name}.weight"] = normal(into * n_embd, out * n_embd, scale=scale)
            tensors[f"{layer}.{name}.bias"] = np.zeros(out * n_embd, np.float32)
    for norm in norms:
        tensors |= {f"{norm}.weight": np.ones(n_embd, np.float32), f"{norm}.bias": np.zeros(n_embd, np.float32)}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return directory


def _export(title: str, source: Path, checkpoint: Path, repository: Path, *options: str) -> Candidate:
    name = title.lower().replace(" ", "-")
    command = [sys.executable, "-m", "export", str(source), "--name", name, "--precision", PRECISION]
    subprocess.run([*command, *options, "--repository", str(repository)], check=True)
    return Candidate(title, repository / name, checkpoint)
