"""State dicts of the GPTModel of "Build a Large Language Model (From Scratch)" (rasbt/LLMs-from-scratch, chapters 4 to 7).

Either bare, or as `model_state_dict` next to the optimizer's. They do not store the head count; it follows from GPT-2's widths.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import bare, gpt2, qwen3_from_scratch, torch_file
from export.checkpoints.options import Options
from export.checkpoints.settings import head_dim
from export.checkpoints.tensors import RawTensor
from export.references.llms_from_scratch import LlmsFromScratch
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size
from export.text_file import read_text

HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # by width: GPT-2 of 124M, 355M, 774M and 1558M weights
ALPACA = Path(__file__).parents[1] / "text" / "alpaca.jinja"
BOOK = gpt2.Names(
    embedding="tok_emb",
    positions="pos_emb.weight",
    block="trf_blocks.",
    norms=("norm1", "norm2"),
    qkv=("att.W_query", "att.W_key", "att.W_value"),
    attention_out="att.out_proj",
    mlp=("ff.layers.0", "ff.layers.2"),
    final_norm="final_norm",
    head="out_head",
    norm_parts=("scale", "shift"),
)
# with torch's own norm and attention, as in the book's bonus material on speed
FAST = replace(BOOK, qkv=("att.qkv",), attention_out="att.proj", norm_parts=("weight", "bias"))


def recognises(saved: Mapping[str, Any]) -> bool:
    model = saved.get("model_state_dict", saved)
    return isinstance(model, dict) and any(isinstance(name, str) and "trf_blocks.0." in name for name in model)


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    tensors = torch_file.raw_tensors(torch_file.state_dict(saved.get("model_state_dict", saved), "it"))
    if qwen3_from_scratch.recognises(tensors):
        return qwen3_from_scratch.read(path, tensors, options)
    _require_gpt(tensors)
    names = FAST if "trf_blocks.0.att.qkv.weight" in tensors else BOOK
    sizes = gpt2.sizes(tensors, names)
    heads = bare.heads(options, sizes.width, HEADS.get(sizes.width))
    files = named(options.tokenizer, add_bos=False) if options.tokenizer else _tokenizer(path, sizes.rows)
    architecture = gpt2.architecture(
        layers=sizes.layers,
        heads=heads,
        kv_heads=max(sizes.kv_width // head_dim(sizes.width, heads), 1),
        width=sizes.width,
        mlp_width=sizes.mlp_width,
        vocabulary_size=vocabulary_size(files, sizes.rows),
        context_length=sizes.context_length,
    )
    weights = gpt2.named_weights(tensors, architecture, names, rows=sizes.rows, biases=None)
    return Checkpoint(path, architecture, weights, files, gpt2.reference(LlmsFromScratch, tensors, architecture))


def _require_gpt(tensors: Mapping[str, RawTensor]) -> None:
    if "pos_emb.weight" not in tensors:
        raise CheckpointError(
            "it is one of the book's later models (Llama, Gemma, …), of which nothing in the file tells the settings: "
            "export the Hugging Face directory that its weights come from"
        )
    rows, _ = bare.matrix(tensors, "tok_emb.weight")
    classes, _ = bare.matrix(tensors, "out_head.weight")
    if classes < rows:
        raise CheckpointError(f"it is a classifier of {classes} classes (chapter 6), which writes no text")


def _tokenizer(path: Path, rows: int) -> TokenizerFiles:
    """GPT-2's tokenizer, with chapter 7's prompt if the file is named like its fine-tuned models."""
    files = gpt2.tokenizer(rows)
    is_tuned = "-sft" in path.stem and "phi3" not in path.stem
    return replace(files, chat_template=read_text(ALPACA)) if is_tuned else files
