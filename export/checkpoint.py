"""What every checkpoint reader returns: architecture, canonical weights, tokenizer, and a reference implementation."""

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
    """The checkpoint cannot be served. The message is one sentence for the user: what is wrong and what would be valid."""


def shown(value: Any) -> str:
    """Formats a value for a message. Truncated: a pickled value can contain itself a billion times."""
    return _repr.repr(value)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding; dimension i is paired with i + head_dim / 2 (Su et al. 2021, RoFormer)."""

    frequencies: tuple[float, ...]  # [head_dim / 2], radians per position, fp32; 0: not rotated; negative: rotated backwards
    scale: float = 1.0  # of cosine and sine: YaRN's attention factor


@dataclass(frozen=True)
class Architecture:
    """What a graph computes, independent of model family. Which weights are present decides the rest: see `Checkpoint`."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int  # of the residual stream
    mlp_width: int
    vocabulary_size: int  # tokens the tokenizer knows; padding rows of the embedding are dropped
    context_length: int  # positions the model was trained for
    norm: Literal["layer", "rms"]
    norm_epsilon: float
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]  # `gelu`: exact (erf); `relu2`: ReLU squared
    rotary: tuple[Rotary, ...] = ()  # the distinct kinds used by the layers
    layer_rotary: tuple[
        int | None, ...
    ] = ()  # index into ``rotary`` per layer; None: no positions; empty: the first in every layer
    layer_window: tuple[int | None, ...] = ()  # keys per query, its own included; None: all; empty: all in every layer
    attention_scale: float | None = None  # of the scores; None: 1 / √head_dim
    attention_softcap: float | None = None  # scores become softcap · tanh(score / softcap)
    logit_softcap: float | None = None
    qk_norm_epsilon: float | None = None  # None: norm_epsilon
    parallel: bool = False  # attention and MLP read the same residual stream; without `mlp_norm` they also share its norm
    # nanochat only:
    residual_scales: tuple[tuple[float, float], ...] = ()  # before each layer: of the stream and the first embedding
    backout: tuple[int, float] | None = None  # (layer, scale): scale · that layer's output is subtracted from the last one's
    smear: float | None = None  # scale of the previous token's gated embedding, which is added to each token's own


@dataclass(frozen=True)
class TokenizerFiles:
    tokenizer_json: str  # for `tokenizers.Tokenizer.from_str`
    chat_template: str | None  # Jinja, rendered as in export/text/chat_environment.py
    end_tokens: tuple[int, ...]  # ids that end a sequence
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # keyed by the names templates use: `eos_token`, …
    added_tokens: Mapping[str, int] = field(default_factory=dict)  # token text → id in the checkpoint's files
    # text → tokens, an independent reading of the same files; None if there is none
    reference: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    ``weights`` are fp32, linear ones ``[out, in]``, keyed by canonical name. Which are present decides what the graph does:

    - ``embedding`` [vocabulary, width]; ``position_embedding`` [context, width] if positions are learned
    - ``head.weight`` [vocabulary, width] only if untied; ``head.bias``
    - norms, ``.weight`` [width] and ``.bias``: ``embedding_norm``, ``final_norm``, and in each layer ``attention_norm`` and
      ``mlp_norm`` before the sublayers, ``attention_out_norm`` and ``mlp_out_norm`` after them
    - ``layers.{i}.qkv``, ``.attention_out``, ``.mlp_up``, ``.mlp_down``, ``.mlp_gate``: ``.weight`` and ``.bias`` (q, k, v
      stacked by rows; rotary as half-split)
    - ``layers.{i}.q_norm.weight``, ``.k_norm.weight``: RMS norms before rotary, per head [head_dim] or over all heads
      [heads · head_dim]
    - nanochat only: ``layers.{i}.value_embedding`` [vocabulary, kv_heads · head_dim], added to the values times a sigmoid of
      ``layers.{i}.value_gate`` [kv_heads, n], which reads the first n channels; ``smear_gate`` [1, n] works the same way

    ``reference(tokens[n]) -> logits[n, vocabulary]`` runs the checkpoint in fp32 from its raw tensors, in its own framework if
    that is installed. It shares no code with the mapping above, so a wrong mapping shows up as a difference.
    """

    source: Path  # the file or directory
    architecture: Architecture
    weights: Mapping[str, np.ndarray]
    tokenizer: TokenizerFiles
    reference: Callable[[np.ndarray], np.ndarray]

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.source)).name  # `.` has a name too
