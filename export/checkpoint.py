"""What every checkpoint reader returns: one architecture, canonical weights, a tokenizer, and a reference to be judged by."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal

import numpy as np

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


class CheckpointError(Exception):
    """The checkpoint cannot be served. The message is one sentence for its owner: what is wrong, and what would be right."""


def shown(value: Any) -> str:
    """A value for a message. Short: one from a pickle may hold itself a thousand million times."""
    return _repr.repr(value)


@dataclass(frozen=True)
class Architecture:
    family: Literal["gpt2", "llama"]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int  # of the residual stream
    mlp_width: int
    vocabulary_size: int  # tokens the tokenizer can name: the embedding's padding rows are cut away
    context_length: int  # positions the model was made for
    norm_epsilon: float
    rope_theta: float | None = None  # llama only
    # gpt2 only: nanoGPT computes the exact one (erf), build-nanogpt and OpenAI's the tanh form
    gelu: Literal["tanh", "exact"] = "tanh"


@dataclass(frozen=True)
class TokenizerFiles:
    tokenizer_json: str  # for `tokenizers.Tokenizer.from_str`
    chat_template: str | None  # Jinja, rendered as in export/chat_environment.py
    end_tokens: tuple[int, ...]  # ids that end a text
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # by the names that templates use: `eos_token`, …
    added_tokens: Mapping[str, int] = field(default_factory=dict)  # texts with the ids that the checkpoint's files give them
    # text → tokens, read from the same files in another way; None where there is no other way
    reference: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    ``weights`` are fp32, linear ones ``[out, in]``, by canonical name:

    - ``embedding`` [vocabulary, width]; ``position_embedding`` [context, width] (gpt2)
    - ``head`` [vocabulary, width] only where untied
    - ``layers.{i}.attention_norm``, ``.mlp_norm`` and ``final_norm``: ``.weight`` [width], and ``.bias`` (gpt2 with bias)
    - ``layers.{i}.qkv``, ``.attention_out``: ``.weight`` and ``.bias`` (q, k, v stacked by rows; rotary as half-split)
    - ``layers.{i}.mlp_up``, ``.mlp_down`` and for llama ``.mlp_gate``: ``.weight`` and ``.bias``

    ``reference(tokens[n]) -> logits[n, vocabulary]`` runs the checkpoint in fp32 from its own raw tensors and names, in its own
    framework where that is installed, sharing no code with the mapping above: a wrong mapping shows as a difference.
    """

    source: Path  # the file or directory
    architecture: Architecture
    weights: Mapping[str, np.ndarray]
    tokenizer: TokenizerFiles
    reference: Callable[[np.ndarray], np.ndarray]

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.source)).name  # `.` has a name too
