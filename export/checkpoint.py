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
class Rotary:
    """How positions turn the pairs of a head, the first half of it with the second (Su et al. 2021, RoFormer)."""

    frequencies: tuple[float, ...]  # [head_dim / 2], radians a position, fp32; 0 leaves a pair alone, a negative one turns back
    scale: float = 1.0  # of cosine and sine: YaRN's attention factor


@dataclass(frozen=True)
class Architecture:
    """What a graph computes, whatever the family is called. The presence of a weight decides the rest: see `Checkpoint`."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int  # of the residual stream
    mlp_width: int
    vocabulary_size: int  # tokens the tokenizer can name: the embedding's padding rows are cut away
    context_length: int  # positions the model was made for
    norm: Literal["layer", "rms"]
    norm_epsilon: float
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]  # `gelu`: the exact one (erf); `relu2`: its square
    rotary: tuple[Rotary, ...] = ()  # the kinds that its layers have
    layer_rotary: tuple[
        int | None, ...
    ] = ()  # which of them each layer has; None: no positions; empty: the first in every layer
    layer_window: tuple[int | None, ...] = ()  # keys that a query sees, its own too; None: all; empty: all in every layer
    attention_scale: float | None = None  # of the scores; None: 1 / √head_dim
    attention_softcap: float | None = None  # scores become softcap · tanh(score / softcap)
    logit_softcap: float | None = None
    qk_norm_epsilon: float | None = None  # None: norm_epsilon
    parallel: bool = False  # attention and MLP read the same residual stream; without `mlp_norm` the same norm of it
    # nanochat's:
    residual_scales: tuple[tuple[float, float], ...] = ()  # of the stream and of the first embedding, before each layer
    backout: tuple[int, float] | None = None  # (layer, scale): so much of its output is taken from the last one's
    smear: float | None = None  # scale of the gated embedding of the token before, which is added to each one's


@dataclass(frozen=True)
class TokenizerFiles:
    tokenizer_json: str  # for `tokenizers.Tokenizer.from_str`
    chat_template: str | None  # Jinja, rendered as in export/text/chat_environment.py
    end_tokens: tuple[int, ...]  # ids that end a text
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # by the names that templates use: `eos_token`, …
    added_tokens: Mapping[str, int] = field(default_factory=dict)  # texts with the ids that the checkpoint's files give them
    # text → tokens, read from the same files in another way; None where there is no other way
    reference: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    ``weights`` are fp32, linear ones ``[out, in]``, by canonical name. Which are there decides what the graph does:

    - ``embedding`` [vocabulary, width]; ``position_embedding`` [context, width] where positions are learned
    - ``head.weight`` [vocabulary, width] only where untied; ``head.bias``
    - norms, ``.weight`` [width] and ``.bias``: ``embedding_norm``, ``final_norm``, and of a layer ``attention_norm`` and
      ``mlp_norm`` before its parts, ``attention_out_norm`` and ``mlp_out_norm`` behind them
    - ``layers.{i}.qkv``, ``.attention_out``, ``.mlp_up``, ``.mlp_down``, ``.mlp_gate``: ``.weight`` and ``.bias`` (q, k, v
      stacked by rows; rotary as half-split)
    - ``layers.{i}.q_norm.weight``, ``.k_norm.weight``: RMS norms before rotary, [head_dim], or of all heads together,
      [heads · head_dim]
    - nanochat's: ``layers.{i}.value_embedding`` [vocabulary, kv_heads · head_dim], added to the values times a sigmoid of
      ``layers.{i}.value_gate`` [kv_heads, n], which reads the first n channels; ``smear_gate`` [1, n] likewise

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
