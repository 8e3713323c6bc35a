"""GGUF files of tiny transformers models, written as llama.cpp's converter writes them: names by the gguf package's own table,
rows of queries and keys permuted, Gemma's norms shifted, and so on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize

from tests.export import samples

VOCABULARY = samples.small_tokenizer().get_vocab_size()
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

Change = Callable[[str, np.ndarray, Any], np.ndarray]  # (raw name, tensor, configuration)


def unchanged(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    return tensor


def permuted(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """Llama: from halves to neighbours."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def shifted(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """Gemma."""
    return tensor + 1 if name.endswith("norm.weight") else tensor


def transposed(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """GPT-2's Conv1D."""
    return tensor.T if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else tensor


def apart(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """GPT-NeoX: from heads to queries, keys and values."""
    if "query_key_value" not in name:
        return tensor
    parts = tensor.reshape(config.num_attention_heads, 3, -1, *tensor.shape[1:])
    return np.concatenate([parts[:, part].reshape(-1, *tensor.shape[1:]) for part in range(3)])


@dataclass
class Kind:
    """``settings`` of the configuration, ``metadata`` beyond what every file has (without the architecture's name)."""

    architecture: MODEL_ARCH
    model: str  # how the names of transformers' classes begin
    settings: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    change: Change = unchanged
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    configuration: str = ""  # the name of its class, where it is not the model's
    fused: bool = False  # queries, keys and values as one tensor, as the newest converter can

    @property
    def name(self) -> str:
        return MODEL_ARCH_NAMES[self.architecture]

    def write(
        self, path: Path, quantization: str = "F32", *, part: int = 0, small_first: bool = False, **metadata: Any
    ) -> samples.Logits:
        """Returns the model itself, as a function ``tokens[n] -> logits[n, vocabulary]`` in torch.

        ``part``: tensors of each file of a split model, ``small_first``: of which the first has none; ``metadata`` overrides
        keys, or drops them (None).
        """
        config = getattr(transformers, self.configuration or f"{self.model}Config")(**SIZES | self.settings)
        head = "LMHeadModel" if self.model == "GPT2" else "ForCausalLM"
        model = samples.drawn(getattr(transformers, self.model + head)(config), seed=0)
        writer = GGUFWriter(path, self.name, split_max_tensors=part, small_first_shard=small_first)
        keys = self._metadata(config) | {f"{self.name}.{key}": value for key, value in self.metadata.items()}
        for key, value in (keys | {key.replace("__", "."): value for key, value in metadata.items()}).items():
            _add(writer, key, value)
        _write_tokenizer(writer)
        kind = GGMLQuantizationType[quantization]
        for name, tensor in self._tensors(config, model).items():
            quantized = tensor.ndim == 2 and kind != GGMLQuantizationType.F32
            writer.add_tensor(name, quantize(tensor, kind) if quantized else tensor, raw_dtype=kind if quantized else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return samples.logits_of(model)

    def _metadata(self, config: Any) -> dict[str, Any]:
        rope = getattr(config, "rope_parameters", None) or {}
        epsilon = getattr(config, "rms_norm_eps", None)
        layer_epsilon = next(
            (getattr(config, key) for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") if hasattr(config, key)),
            None,
        )
        keys = {
            "block_count": config.num_hidden_layers,
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "feed_forward_length": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": getattr(config, "num_key_value_heads", None),
            "attention.layer_norm_rms_epsilon": epsilon,
            "attention.layer_norm_epsilon": layer_epsilon,
            "attention.key_length": getattr(config, "head_dim", None),
            "attention.value_length": getattr(config, "head_dim", None),
            "rope.freq_base": rope.get("full_attention", rope).get("rope_theta"),
        }
        return {f"{self.name}.{key}": value for key, value in keys.items()}

    def _tensors(self, config: Any, model: Any) -> dict[str, np.ndarray]:
        names = get_tensor_name_map(self.architecture, config.num_hidden_layers)
        state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
        if config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        found = {}
        for name, tensor in state.items():
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None, name
            found[new] = np.ascontiguousarray(self.change(name, tensor, config))
        for layer in range(config.num_hidden_layers) if self.fused else ():
            for kind in ("weight", "bias"):
                parts = [found.pop(f"blk.{layer}.attn_{one}.{kind}") for one in "qkv"]
                found[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)
        return found | self.extra


def _write_tokenizer(writer: GGUFWriter) -> None:
    model = json.loads(samples.small_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in samples.SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array
    }  # fmt: skip
    if value is not None:
        adders[type(value)](key, value)


LLAMA = Kind(MODEL_ARCH.LLAMA, "Llama", change=permuted)
