"""The same weights for every peer: the demonstration model in the forms that they read.

The GGUF itself (Q4_1); a Q8_0 made of it; a Hugging Face directory in fp32, from our own reader of checkpoints. Peers with a
form of their own get it from their own converter, out of that directory.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

from export.checkpoint import Architecture, Checkpoint
from export.checkpoints import read
from export.demonstration import demonstration_checkpoint

HUGGINGFACE = {"attention_out": "self_attn.o_proj", "mlp_gate": "mlp.gate_proj", "mlp_up": "mlp.up_proj"}
HUGGINGFACE |= {"mlp_down": "mlp.down_proj", "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def huggingface(directory: Path) -> Path:
    """The demonstration model as transformers reads it. Nothing is done where it exists already."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = read(demonstration_checkpoint())
    save_file(_tensors(checkpoint), directory / "model.safetensors", metadata={"format": "pt"})
    files, end = checkpoint.tokenizer, checkpoint.tokenizer.end_tokens[0]
    (directory / "tokenizer.json").write_text(files.tokenizer_json)
    names = {entry["id"]: entry["content"] for entry in json.loads(files.tokenizer_json)["added_tokens"]}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[end], "pad_token": names[end]}
    tokenizer |= {"bos_token": names[end], "unk_token": names[min(names)]}  # CTranslate2's converter wants both
    _write(directory / "tokenizer_config.json", tokenizer | {"chat_template": files.chat_template})
    _write(directory / "generation_config.json", {"eos_token_id": end, "pad_token_id": end})
    theta = float(GGUFReader(demonstration_checkpoint()).fields["llama.rope.freq_base"].contents())
    _write(
        directory / "config.json", _config(checkpoint.architecture, end, theta, tied="head.weight" not in checkpoint.weights)
    )
    return directory


def _tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    shape = checkpoint.architecture
    tensors = {}
    for name, array in checkpoint.weights.items():
        parts = name.split(".")
        if parts[0] != "layers":
            renamed = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
            tensors[renamed[parts[0]]] = array
        elif parts[2] == "qkv":
            ends = np.cumsum([shape.heads, shape.kv_heads]) * shape.head_dim
            for part, rows in zip(("q_proj", "k_proj", "v_proj"), np.split(array, ends), strict=True):
                tensors[f"model.layers.{parts[1]}.self_attn.{part}.weight"] = np.ascontiguousarray(rows)
        else:
            tensors[f"model.layers.{parts[1]}.{HUGGINGFACE[parts[2]]}.weight"] = array
    return tensors


def _config(shape: Architecture, end: int, theta: float, *, tied: bool) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary_size,
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "float32",
    }


def q8_0(path: Path) -> Path:
    """The demonstration model with every matrix as Q8_0, its metadata kept. Nothing is done where it exists already."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(demonstration_checkpoint())
    unfinished = path.with_suffix(".part")
    writer = GGUFWriter(unfinished, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            of = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=of)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)  # OpenVINO's reader wants to know
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        matrix = values.ndim == 2
        data = quantize(values, GGMLQuantizationType.Q8_0) if matrix else values
        writer.add_tensor(tensor.name, data, raw_dtype=GGMLQuantizationType.Q8_0 if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)
    return path


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2))
