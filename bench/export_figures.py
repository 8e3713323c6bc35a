"""python -m bench.export_figures: exports every kind of checkpoint in every precision and prints a Markdown table.

Each export runs as a process of its own, as a user runs it, so its time and its peak memory are what the command itself says.
Speeds are of the decoder alone, past 64 tokens, in this process. Only SmolLM2 is a trained model here: the others have GPT-2's
and Llama's shapes with freshly initialised weights, so their KL and top-1 show the rounding and no more.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from backends.onnx_decoder.decoder import Decoder, Row
from export.quantize import PRECISIONS
from tests.export import samples
from tests.export.nanogpt_model import GPT, Sizes

PAST, PREFILL = 64, 256  # tokens
STREAMS = (1, 8, 32)
HEADER = "| checkpoint | precision | export s | peak memory, of fp32 | file MB | KL | top-1 | largest difference | "
HEADER += " | ".join(f"{count} stream{'s' * (count > 1)}" for count in STREAMS) + " | prefill |"


def gpt2_124m(directory: Path) -> Path:
    return _torch_file(directory / "model_40000.pt", Sizes(block_size=1024, n_layer=12, n_head=12, n_embd=768))


def nanogpt_characters(directory: Path) -> Path:
    sizes = Sizes(block_size=256, n_layer=6, n_head=6, n_embd=384, bias=False, approximate="none")
    sizes.vocab_size = len(samples.CHARACTERS)
    samples.write_meta(directory / "meta.pkl", samples.CHARACTERS)
    return _torch_file(directory / "ckpt.pt", sizes)


def huggingface_gpt2(directory: Path) -> Path:
    torch.manual_seed(0)
    vocabulary = samples.small_tokenizer().get_vocab_size()
    GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=384, n_layer=6, n_head=6)).save_pretrained(directory)
    samples.save_tokenizer(directory)
    return directory


def huggingface_llama(directory: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=samples.small_tokenizer().get_vocab_size(),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    samples.save_tokenizer(directory)
    return directory


CHECKPOINTS: dict[str, Callable[[Path], Path | None]] = {
    "SmolLM2-135M, GGUF Q4_1": lambda directory: None,  # the exporter's own default
    "GPT-2 124M, build-nanogpt": gpt2_124m,
    "GPT-2 11M over characters, nanoGPT": nanogpt_characters,
    "GPT-2 11M, Hugging Face": huggingface_gpt2,
    "Llama 9M, Hugging Face": huggingface_llama,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.export_figures", description=__doc__.partition(": ")[2].split("\n")[0]
    )
    parser.add_argument("--only", default="", help="only checkpoints whose name holds this")
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", file=sys.stderr)
    print(HEADER + "\n" + "| --- " * HEADER.count(" | ") + "| --- |", flush=True)
    for title, make in CHECKPOINTS.items():
        if options.only in title:
            with tempfile.TemporaryDirectory() as scratch:
                checkpoint = make(Path(scratch))
                for precision in options.precisions:
                    print(_row(title, checkpoint, precision, Path(scratch) / "models"), flush=True)


def _row(title: str, checkpoint: Path | None, precision: str, repository: Path) -> str:
    command = [sys.executable, "-m", "export", *([str(checkpoint)] if checkpoint else [])]
    command += ["--repository", str(repository), "--name", precision, "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    said = re.search(r"is ready: (\d+) s, peak memory ([\d.]+) GiB", done.stderr)
    if not said:
        return f"| {title} | {precision} | {done.stderr.strip().splitlines()[-1]} |"
    seconds, peak = said.groups()
    version = repository / precision / "1"
    card = json.loads((version / "model_card.json").read_text())
    checked, shape = card["verification"], card["architecture"]
    share = float(peak) * 2**30 / _fp32_bytes(shape)
    speeds = _speeds(version / "model.onnx", shape["vocabulary_size"])
    cells = [title, precision, seconds, f"{peak} GiB, {share:.1f} ×", f"{card['files']['megabytes']:.0f}"]
    cells += [f"{checked['kl']:.2g}", f"{checked['top1']:.3f}", f"{checked['largest_difference']:.2g}"]
    return "| " + " | ".join(cells + [f"{speed:.0f}" for speed in speeds]) + " |"


def _fp32_bytes(shape: dict[str, Any]) -> int:
    """Of the matrices of a model with a tied head."""
    attention = shape["width"] * shape["head_dim"] * (2 * shape["heads"] + 2 * shape["kv_heads"])
    matrices, positions = (2, shape["context_length"]) if not shape["rotary"] else (3, 0)
    layer = attention + matrices * shape["width"] * shape["mlp_width"]
    return 4 * (shape["layers"] * layer + (shape["vocabulary_size"] + positions) * shape["width"])


def _speeds(model: Path, vocabulary_size: int) -> list[float]:
    """Tokens a second, all streams together, and of a prefill; the median of several steps each."""
    decoder, random = Decoder(model, slots=max(STREAMS), context_length=PREFILL), np.random.default_rng(0)

    def timed(rows: int, past: int, count: int, repeats: int) -> float:
        seconds = []
        for _ in range(repeats):
            batch = [Row(slot, past, random.integers(0, vocabulary_size, count).astype(np.int32)) for slot in range(rows)]
            began = time.perf_counter()
            decoder.run(batch)
            seconds.append(time.perf_counter() - began)
        return rows * count / float(np.median(seconds))

    prefill = timed(1, 0, PREFILL, 5)
    timed(max(STREAMS), 0, PAST, 1)
    return [timed(count, PAST, 1, 15) for count in STREAMS] + [prefill]


def _torch_file(path: Path, sizes: Sizes) -> Path:
    """As the two projects save it, with the weights a training starts from."""
    torch.manual_seed(0)
    model = GPT(sizes)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            spread = 0.02 / (2 * sizes.n_layer) ** 0.5 if name.endswith("c_proj.weight") else 0.02
            nn.init.normal_(parameter, std=spread)
    fields = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")
    values = {field: getattr(sizes, field) for field in fields}
    if path.name == "ckpt.pt":
        torch.save({"model": model.state_dict(), "model_args": values | {"bias": sizes.bias, "dropout": 0.0}}, path)
        return path
    with samples.class_of("__main__", "GPTConfig", fields) as config_class:
        torch.save({"model": model.state_dict(), "config": config_class(**values), "step": 40000, "val_loss": 3.05}, path)
    return path


if __name__ == "__main__":
    main()
