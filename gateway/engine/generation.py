"""The vocabulary of one generation, shared by the routes that ask for it and the engine that runs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gateway.text.grammar import Matcher

if TYPE_CHECKING:
    from gateway.telemetry.tracing import RequestTrace

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParameters:
    """How a token is chosen from the logits, in this order: logit bias, penalties, temperature, top-k, top-p, min-p.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 switch those filters off; ``min_p`` keeps the tokens
    that are at least that fraction as probable as the most probable one.

    Penalties apply to tokens generated so far (not to those of the prompt). ``presence_penalty`` is subtracted from a logit
    once, ``frequency_penalty`` once per occurrence; ``repetition_penalty`` divides a positive logit and multiplies a negative
    one, once (CTRL, Keskar et al. 2019). ``logit_bias`` is added to the logits of its tokens.
    """

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """``prompt_tokens`` fit into the model's context with at least one token to spare where one is to be generated: the engine
    refuses them otherwise, in the name of ``prompt_field``, the field of the request's body that they come from.

    ``max_tokens`` may be 0 only together with ``prompt_logprobs``. ``seed``: the same seed gives the same text, alone or among
    others; None draws one. ``stop``: strings that end the text and are not part of it. Before ``min_tokens`` tokens neither
    they nor an end token end it; with ``ignore_eos`` end tokens never do.

    ``logprobs``: how many alternatives every generated token is told with; None: no log-probabilities at all.
    ``prompt_logprobs``: those of the prompt's tokens too. ``grammar``: what the text has to match. ``owner``: whose text it is,
    the name of a key. ``request_id``: of the request that it belongs to, for the log; ``trace``: its trace, where it is traced.
    """

    prompt_tokens: list[int]
    max_tokens: int
    sampling: SamplingParameters
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prompt_field: str = "prompt"
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: Matcher | None = None
    owner: str = ""
    request_id: str | None = None
    trace: "RequestTrace | None" = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural log-probability: of the model itself, before bias, penalties, temperature and filters.

    ``logprob`` is None for the first token of a prompt, which nothing stands before. ``top``: the most probable tokens of the
    position, most probable first, without alternatives of their own.
    """

    token: int
    text: str  # of the token alone; half a character is U+FFFD
    bytes: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Times:
    """Of a text, as time.monotonic tells them."""

    arrived: float  # in the queue
    started: float  # in a slot, its first


@dataclass(frozen=True)
class Delta:
    """A piece of an answer: text that is safe to show, the tokens generated since the last piece, and why it ended.

    ``index``: which of the answers of a request it belongs to. The first piece tells what was found of the prompt:
    ``cached_tokens``, ``prompt_logprobs``; and ``times``. Since the last piece: ``recoveries``; tokens that were
    ``drafted``, and those of them that were ``accepted``.
    """

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    times: Times | None = None
    recoveries: int = 0
    drafted: int = 0
    accepted: int = 0
