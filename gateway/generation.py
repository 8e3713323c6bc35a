"""The vocabulary of one generation, shared by the routes that ask for it and the engine that runs it."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParameters:
    """How a token is chosen from the logits, in this order: penalties, temperature, top-k, top-p.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 switch those filters off. A penalty is subtracted from the logits
    of tokens generated so far (not those of the prompt): ``presence_penalty`` once, ``frequency_penalty`` once per occurrence.
    """

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """``prompt_tokens`` fit into the model's context with at least one token to spare: the engine refuses them otherwise, in
    the name of ``prompt_field``, the field of the request's body that they come from.

    ``seed``: the same seed gives the same text, alone or among others; None draws one. ``stop``: strings that end the text and
    are not part of it.
    """

    prompt_tokens: list[int]
    max_tokens: int
    sampling: SamplingParameters
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prompt_field: str = "prompt"


@dataclass(frozen=True)
class Delta:
    """A piece of the answer: text that is safe to show, the tokens generated since the last piece, and why it ended."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
