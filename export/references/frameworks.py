"""References in the frameworks that the models were made with, where these are installed.

Each function returns ``run(tokens[n]) -> logits[n, vocabulary]``, in fp32.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.checkpoint import CheckpointError

if TYPE_CHECKING:
    import torch

Run = Callable[[np.ndarray], np.ndarray]


def torch_gpt2(state: Mapping[str, "torch.Tensor"], config: Mapping[str, Any], vocabulary: int, *, exact_gelu: bool) -> Run:
    """build-nanogpt and nanoGPT, in torch on their state dict."""
    import torch
    from torch.nn import functional as F

    heads, width, layers = config["n_head"], config["n_embd"], config["n_layer"]

    def bias(name: str) -> "torch.Tensor | None":
        return state[f"{name}.bias"].float() if f"{name}.bias" in state else None

    def norm(x: "torch.Tensor", name: str) -> "torch.Tensor":
        return F.layer_norm(x, (width,), state[f"{name}.weight"].float(), bias(name), 1e-5)

    def linear(x: "torch.Tensor", name: str) -> "torch.Tensor":
        return F.linear(x, state[f"{name}.weight"].float(), bias(name))

    def attention(x: "torch.Tensor", block: str) -> "torch.Tensor":
        q, k, v = (t.view(-1, heads, width // heads).transpose(0, 1) for t in linear(x, f"{block}.c_attn").split(width, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(0, 1).reshape(-1, width), f"{block}.c_proj")

    @torch.inference_mode()
    def run(tokens: np.ndarray) -> np.ndarray:
        ids = torch.as_tensor(np.asarray(tokens, np.int64))
        x = state["transformer.wte.weight"][ids].float() + state["transformer.wpe.weight"][: len(ids)].float()
        for layer in range(layers):
            block = f"transformer.h.{layer}"
            x = x + attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
            hidden = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="none" if exact_gelu else "tanh")
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        head = "lm_head" if "lm_head.weight" in state else "transformer.wte"
        return linear(norm(x, "transformer.ln_f"), head)[:, :vocabulary].numpy()

    return run


def huggingface(directory: Path, model_type: str | None, otherwise: Run, vocabulary: int) -> Run:
    """Runs the model in transformers if it and torch are installed and know the type; otherwise uses ``otherwise`` (numpy)."""

    @cache  # one copy of the weights, made at the first use
    def run() -> Run:
        return _transformers(directory, otherwise) if _knows(model_type) else otherwise

    return lambda tokens: run()(np.asarray(tokens, np.int64))[:, :vocabulary]


def _knows(model_type: str | None) -> bool:
    if model_type is None or not (find_spec("torch") and find_spec("transformers")):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _transformers(directory: Path, otherwise: Run) -> Run:
    """``otherwise`` where it does not find the weights, as it does not know names with prefixes. None of the directory's own
    code is run."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    load: Any = transformers.AutoModelForCausalLM.from_pretrained
    try:
        model, found = load(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except OSError:
        return otherwise
    except Exception as exc:  # its own checks of a configuration are many
        raise _refusal(directory, exc) from exc
    if found["missing_keys"]:
        return otherwise
    model.eval()

    def run(tokens: np.ndarray) -> np.ndarray:
        try:
            with torch.inference_mode():
                logits: np.ndarray = model(torch.as_tensor(tokens)[None], use_cache=False).logits[0].numpy()
        except Exception as exc:
            raise _refusal(directory, exc) from exc
        return logits

    return run


def _refusal(directory: Path, exc: Exception) -> CheckpointError:
    said = " ".join(str(exc).split())[:300]
    return CheckpointError(f"{directory}: transformers cannot run it ({type(exc).__name__}: {said})")
