"""One generation: what is asked, what comes of it piece by piece, and what is known of it at its end."""

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
SEED_STEP = 0x9E3779B97F4A7C15  # odd, and far from what people choose: neighbouring seeds share no choice


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

    ``logprobs``: how many alternatives are returned with every generated token; None: no log-probabilities at all.
    ``prompt_logprobs``: the same for the prompt's tokens. ``return_token_ids``: whether pieces carry the ids of their tokens.
    ``grammar``: what the text has to match. ``visible_tokens``: special tokens that the text shows all the same. ``owner``:
    whose text it is, the name of a key. ``request_id``: of the request that
    it belongs to, for the log; ``trace``: its trace, where it is traced.
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
        """``n`` requests for the same prompt; with a seed, every one has its own, and the first the seed itself."""
        if self.seed is None:
            return [self] * n
        return [replace(self, seed=(self.seed + index * SEED_STEP) % 2**64) for index in range(n)]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural log-probability: of the model itself, before bias, penalties, temperature and filters.

    ``logprob`` is None for the first token of a prompt, which nothing stands before. ``top``: the most probable tokens of the
    position, most probable first, without alternatives of their own. ``rank``: among the whole vocabulary, 1 for the most
    probable; known for tokens of a prompt only.
    """

    token: int
    text: str  # of the token alone; half a character is U+FFFD
    bytes: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()
    rank: int | None = None


@dataclass(slots=True)  # not frozen: that would triple what making one takes
class Delta:
    """A piece of an answer: text that is safe to show, the tokens generated since the last piece, and why it ended.

    ``index``: which of the answers of a request it belongs to. The first piece has the ``prompt_logprobs``.
    """

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()  # of its tokens, an end token too, where they are asked for


@dataclass(slots=True)
class AnswerRecord:
    """How far one answer has come. Times are of time.monotonic, in seconds."""

    arrived: float = field(default_factory=time.monotonic)  # in the queue
    started: float | None = None  # in a slot, its first
    first_token: float | None = None
    last_token: float | None = None
    timed_tokens: int = 0  # those up to ``last_token``
    tokens: int = 0
    cached_tokens: int | None = None  # of its prompt, when it was first computed
    recoveries: list[float] = field(default_factory=list)  # when its Triton, or its cache there, was found lost
    drafted: int = 0
    accepted: int = 0
    finish_reason: FinishReason | None = None
    stop_string: str | None = None  # that ended it


@dataclass
class GenerationRecord:
    """What is known of the answers of one request: the one tally that usage, limits, log, metrics and traces read.

    ``prompt_tokens``: of all prompts together. ``copies`` answers continue each prompt, next to each other.
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
        """Of the prompts; further copies find what the first has just computed."""
        return sum(answer.cached_tokens or 0 for answer in self.answers[:: self.copies])

    @property
    def first_token(self) -> float | None:
        return min((answer.first_token for answer in self.answers if answer.first_token is not None), default=None)

    @property
    def finish_reasons(self) -> list[FinishReason]:
        return [answer.finish_reason for answer in self.answers if answer.finish_reason is not None]


# Tokens of an answer have come: how many, and when. The answer still has the times of those before them.
NoteTokens = Callable[[AnswerRecord, int, float], None]
# The record is complete. The error: what ended it, where that was neither its end nor its client.
NoteEnd = Callable[[Exception | None], None]


class Generation:
    """The sequences of one request under way. They push what is new; one reader takes it, all at once where it is slow.

    An error of one ends all. ``close`` frees all slots at once: `take` calls it at the end and at an error, its reader where it
    leaves before.
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
        """``leave`` takes a sequence out of the engine. ``whole``: the reader wants every answer in one piece."""
        self.record = record
        self._leave, self._note, self._note_end, self._whole = leave, note_tokens, note_end, whole
        self._sequences: list[Sequence] = []
        self._unfinished: set[Sequence] = set()  # whose end was not taken yet
        self._ready: dict[Sequence, None] = {}  # those with something new, in the order in which it came
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None  # of the reader
        self._closed = False
        self.finished = False  # whether all of it was taken

    def add(self, sequence: "Sequence") -> None:
        sequence.push = self._push
        self._sequences.append(sequence)
        self._unfinished.add(sequence)
        self.record.answers.append(sequence.record)

    async def take(self) -> list[Delta]:
        """Waits for what is new; nothing after the end, or once it is closed. Raises the error that ends it."""
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
        """``error``: what ends it; None: its end, or that nobody reads it any more. May be called again."""
        if self._closed:
            return
        self._closed = True
        for sequence in self._sequences:
            self._note_tokens(sequence.record)
            self._leave(sequence)
        self._sequences, self._ready, self._unfinished = [], {}, set()  # they know it: a circle that only the collector finds
        self._wake()
        self._note_end(error)

    def _push(self, sequence: "Sequence") -> None:
        """Called by ``sequence`` for every answer that gave it something to read, and when it has failed. It may call again
        behind its end: a token that was chosen in a thread is heard of from there and from its step."""
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
