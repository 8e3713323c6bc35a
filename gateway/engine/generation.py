"""One generation: the request, its output piece by piece, and the record of how it went."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from gateway.text.grammar import Matcher

if TYPE_CHECKING:
    from gateway.engine.sequence import Sequence
    from gateway.telemetry.tracing import RequestTrace

FinishReason = Literal["stop", "length"]
SEED_STEP = 0x9E3779B97F4A7C15  # odd and large: requests with neighbouring seeds share no choice's seed


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
    """What to generate for one prompt.

    ``prompt_tokens`` must fit into the model's context, with room for at least one token if any is to be generated. Otherwise
    the engine refuses the request and names ``prompt_field``, the field of the request body that they come from.

    ``max_tokens`` may be 0 only together with ``prompt_logprobs``. ``seed``: the same seed gives the same output, alone or in a
    batch; None draws one. ``stop``: strings that end the output and are not part of it. Neither they nor an end token take
    effect before ``min_tokens`` tokens; with ``ignore_eos``, end tokens never do.

    ``logprobs``: how many alternatives to return with every generated token; None: no log-probabilities at all.
    ``prompt_logprobs``: the same for the prompt. ``return_token_ids``: whether deltas carry token ids. ``grammar``: what the
    output must match. ``visible_tokens``: special tokens that still appear in the text. ``owner``: name of the API key.
    ``request_id``: for the log. ``trace``: the request's trace, if it is traced.
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
    prompt_logprobs: int | None = None
    return_token_ids: bool = False
    grammar: Matcher | None = None
    visible_tokens: frozenset[int] = frozenset()
    owner: str = ""
    request_id: str | None = None
    trace: "RequestTrace | None" = None

    def copies(self, n: int) -> list["GenerationRequest"]:
        """``n`` requests for the same prompt. The first keeps the seed, if any; the others get seeds derived from it."""
        if self.seed is None:
            return [self] * n
        return [replace(self, seed=(self.seed + index * SEED_STEP) % 2**64) for index in range(n)]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural log-probability from the model itself, before bias, penalties, temperature and filters.

    ``logprob`` is None for the first token of a prompt. ``top``: the most probable tokens at this position, most probable
    first, without alternatives of their own. ``rank``: among the whole vocabulary, 1 for the most probable; prompt tokens only.
    """

    token: int
    text: str  # of the token alone; half a character is U+FFFD
    bytes: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()
    rank: int | None = None


@dataclass(slots=True)  # not frozen: that would make construction three times slower
class Delta:
    """A piece of an answer: text that is safe to show, the tokens generated since the last piece, and why it ended.

    ``index``: which of the request's answers it belongs to. The first piece carries ``prompt_logprobs``.
    """

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()  # including an end token; only if requested


@dataclass(slots=True)
class AnswerRecord:
    """Progress of one answer. Times are time.monotonic(), in seconds."""

    arrived: float = field(default_factory=time.monotonic)  # in the queue
    started: float | None = None  # when it was first given a slot
    first_token: float | None = None
    last_token: float | None = None
    timed_tokens: int = 0  # up to ``last_token``
    tokens: int = 0
    cached_tokens: int | None = None  # of the prompt, when it was first computed
    recoveries: list[float] = field(default_factory=list)  # when its Triton or its KV cache was lost
    drafted: int = 0
    accepted: int = 0
    finish_reason: FinishReason | None = None
    stop_string: str | None = None  # that ended it


@dataclass
class GenerationRecord:
    """The record of one request's answers, read by usage, rate limits, log, metrics and traces.

    ``prompt_tokens``: of all prompts together. Each prompt has ``copies`` answers, stored next to each other.
    """

    prompt_tokens: int = 0
    copies: int = 1
    answers: list[AnswerRecord] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def cached_tokens(self) -> int:
        """Cached prompt tokens. Only the first copy of each prompt counts: the others reuse what it has just computed."""
        return sum(answer.cached_tokens or 0 for answer in self.answers[:: self.copies])

    @property
    def first_token(self) -> float | None:
        return min((answer.first_token for answer in self.answers if answer.first_token is not None), default=None)

    @property
    def finish_reasons(self) -> list[FinishReason]:
        return [answer.finish_reason for answer in self.answers if answer.finish_reason is not None]


# Called when an answer has new tokens, with their number and the time. The record still has the previous tokens' times.
NoteTokens = Callable[[AnswerRecord, int, float], None]
# Called when the record is complete. The error is None if the generation finished or its client left.
NoteEnd = Callable[[Exception | None], None]


class Generation:
    """The running sequences of one request. They push new output; one reader takes whatever has accumulated.

    An error in one sequence ends all. ``close`` frees all slots at once: `take` calls it at the end and on an error; a reader
    that leaves earlier must call it.
    """

    def __init__(
        self,
        record: GenerationRecord,
        leave: Callable[["Sequence"], None],
        note_tokens: NoteTokens = lambda *_: None,
        note_end: NoteEnd = lambda _: None,
        *,
        whole: bool = False,
    ) -> None:
        """``leave`` removes a sequence from the engine. ``whole``: return each answer in one piece."""
        self.record = record
        self._leave, self._note, self._note_end, self._whole = leave, note_tokens, note_end, whole
        self._sequences: list[Sequence] = []
        self._unfinished: set[Sequence] = set()  # whose last delta was not taken yet
        self._ready: dict[Sequence, None] = {}  # with new output, in order of arrival
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None  # the reader's
        self._closed = False
        self.finished = False  # whether all output was taken

    def add(self, sequence: "Sequence") -> None:
        sequence.push = self._push
        self._sequences.append(sequence)
        self._unfinished.add(sequence)
        self.record.answers.append(sequence.record)

    async def take(self) -> list[Delta]:
        """Waits for new deltas and returns them; returns none after the end or `close`. Raises the error that ended it."""
        while not (self._closed or self._error or (len(self._ready) >= len(self._unfinished) if self._whole else self._ready)):
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._closed:
            return []
        if self._error is not None:
            self.close(self._error)
            raise self._error
        taken = self._sequences if self._whole else list(self._ready)
        self._ready.clear()
        deltas = [sequence.take() for sequence in taken]
        self._unfinished -= {sequence for sequence in taken if sequence.ended}
        if not self._unfinished:
            self.finished = True
            self.close()
        return deltas

    def close(self, error: Exception | None = None) -> None:
        """``error``: what ended it; None if it finished or its reader left. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        for sequence in self._sequences:
            self._note_tokens(sequence.record)
            self._leave(sequence)
        self._sequences, self._ready, self._unfinished = [], {}, set()  # breaks reference cycles
        self._wake()
        self._note_end(error)

    def _push(self, sequence: "Sequence") -> None:
        """Called by ``sequence`` whenever it has new output, and when it has failed. A call after its end is ignored: a token
        selected in a thread is reported both from there and from its step."""
        if sequence not in self._unfinished:
            return
        if sequence.error is not None:
            self._error = sequence.error
        else:
            self._note_tokens(sequence.record)
        if sequence.ended or not self._whole:
            self._ready[sequence] = None
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _note_tokens(self, answer: AnswerRecord) -> None:
        if new := answer.tokens - answer.timed_tokens:
            now = time.monotonic()
            self._note(answer, new, now)
            answer.first_token = answer.first_token or now
            answer.last_token, answer.timed_tokens = now, answer.tokens
