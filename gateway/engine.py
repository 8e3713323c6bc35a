"""The loop: schedule, step, sample, deliver. One engine a model; every text of a gateway runs through its steps."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator

import numpy as np

from gateway.choosing import Position, choose, first_of_prompt, logprob
from gateway.errors import BackendUnavailable, ContextLengthExceeded, InternalError, InvalidRequest, Overloaded, TidegateError
from gateway.generation import Delta, GenerationRequest
from gateway.model import Model
from gateway.scheduler import Scheduler
from gateway.sequence import Sequence
from gateway.settings import Settings
from gateway.step import NO_SLOT, Backend, StepAnswer, StepRow

logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.1  # seconds between attempts while Triton does not answer, or while it has no slot
PROBE_TIMEOUT = 1.0  # seconds
STALLED_AFTER = 10.0  # seconds that a step may take before its Triton counts as stuck


class Engine:
    """Runs until `close`. Texts survive a backend that goes away for less than ``settings.recovery_timeout`` seconds."""

    def __init__(self, backend: Backend, model: Model, settings: Settings) -> None:
        self.model = model
        self._backend = backend
        self._max_waiting = settings.max_waiting
        self._recovery_timeout = settings.recovery_timeout
        self._scheduler = Scheduler(model.slots, settings.prefill_chunk)
        self._release: list[int] = []  # ended sequences that Triton does not know of yet
        self._wake = asyncio.Event()
        self._step_began: float | None = None  # of the step that Triton works on
        self._failing_since: float | None = None  # the beginning of the first step of those that have failed in a row
        self._last_answer = -PROBE_TIMEOUT  # when Triton last answered a step
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def idle(self) -> bool:
        return self.running + self.waiting == 0

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"engine {self.model.name}")

    @property
    def alive(self) -> bool:
        """Whether its loop runs: from its start to its close it always should."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        self._closed = True
        self.end_texts(BackendUnavailable("The server is stopping.", retry_after=2))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def end_texts(self, error: TidegateError) -> None:
        """Ends every text, waiting ones too, with ``error``."""
        for sequence in self._scheduler.drop_all():
            sequence.fail(error)
            self._release.append(sequence.id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """The text as it comes; the last piece says why it ended. Closing the generator frees the slot at once.

        Raises InvalidRequest, ContextLengthExceeded or Overloaded before the first piece; BackendUnavailable at any time.
        """
        self._check(request)
        sequence = Sequence(request, self.model)
        self._scheduler.add(sequence)
        self._wake.set()
        try:
            while True:
                delta = await sequence.next_delta()
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            self._leave(sequence)

    async def probe(self) -> None:
        """Raises BackendUnavailable unless Triton answered a real step within the last second, or answers one within the next.

        While it works on a step it counts as alive: a step over many long prompts may take seconds.
        """
        now = time.monotonic()
        busy = self._failing_since is None and self._step_began is not None and now - self._step_began < STALLED_AFTER
        if busy or now - self._last_answer < PROBE_TIMEOUT:
            return
        row = StepRow(secrets.randbits(64), past_length=0, tokens=np.zeros(1, np.int32), token_limit=1)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._backend.step(self.model, [row], [])
        except TimeoutError as exc:
            raise BackendUnavailable("The model server does not answer within a second.", retry_after=2) from exc
        self._last_answer = time.monotonic()
        self._release.append(row.sequence_id)
        self._wake.set()

    def _check(self, request: GenerationRequest) -> None:
        if self._closed:
            raise BackendUnavailable("This model is no longer served. Please try again.", retry_after=2)
        prompt, context = len(request.prompt_tokens), self.model.context_length
        if prompt == 0:
            raise InvalidRequest(f"{request.prompt_field} has no token; it must hold at least one.", param=request.prompt_field)
        if prompt + min(request.max_tokens, 1) > context:
            raise ContextLengthExceeded(
                f"{request.prompt_field} has {prompt} tokens; "
                f"this model's context holds {context}, with at least one for the answer.",
                param=request.prompt_field,
            )
        wrong = next((token for token in request.prompt_tokens if not 0 <= token < self.model.vocabulary_size), None)
        if wrong is not None:
            raise InvalidRequest(f"{request.prompt_field} {self._not_a_token(wrong)}.", param=request.prompt_field)
        wrong = next((token for token in request.sampling.logit_bias if not 0 <= token < self.model.vocabulary_size), None)
        if wrong is not None:
            raise InvalidRequest(f"logit_bias {self._not_a_token(wrong)}.", param="logit_bias")
        if self._scheduler.waiting >= self._max_waiting:
            raise Overloaded(f"{self._scheduler.waiting} requests wait already. Please try again later.", retry_after=1)

    def _not_a_token(self, token: int) -> str:
        return f"names token {token}; this model's tokens are 0 to {self.model.vocabulary_size - 1}"

    async def _run(self) -> None:
        while True:
            batch = self._scheduler.next()
            if not batch and not self._release:
                self._wake.clear()
                await self._wake.wait()
                continue
            release, self._release = self._release, []
            began = self._step_began = time.monotonic()
            try:
                answer = await self._backend.step(self.model, [row for _, row in batch], release)
                self._note_answer()
                await self._deliver(batch, answer)
            except Exception as exc:
                self._release = release + self._release
                await self._recover(exc, began)
            else:
                if batch and (answer.cached_length == NO_SLOT).all():
                    await asyncio.sleep(RETRY_PAUSE)

    async def _deliver(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer) -> None:
        """Notes what is cached and appends a token to every sequence whose last token was computed."""
        ready = []
        place, full = 0, iter(answer.logits)
        lengths = zip(answer.cached_length.tolist(), answer.reused_length.tolist(), strict=True)
        for (sequence, row), (cached_length, reused_length) in zip(batch, lengths, strict=True):
            sequence.note_cached(cached_length, reused_length)
            if cached_length != row.past_length + len(row.tokens):
                continue  # its row has not reached its end: no position is its own
            positions = [
                Position(sequence, place + step, next(full) if row.full_logits else None) for step in range(row.logit_count)
            ]
            place += row.logit_count
            if sequence.scoring:
                self._score(row, positions, answer)
            if sequence.missing == 0 and not sequence.ended:  # its reader may have left meanwhile
                ready.append(positions[-1])
        if any(position.sequence.has_grammar for position in ready):
            tokens = await asyncio.to_thread(choose, ready, answer)  # grammars take their time: others are served meanwhile
        else:
            tokens = choose(ready, answer)
        for position, token in zip(ready, tokens, strict=True):
            self._append(position, token, answer)

    def _append(self, position: Position, token: int, answer: StepAnswer) -> None:
        sequence = position.sequence
        if sequence.request.max_tokens == 0:
            sequence.finish_without_text()
        elif not sequence.ended:  # its grammar may have failed
            alternatives = sequence.request.logprobs
            told = None if alternatives is None else logprob(self.model.tokenizer, position, token, answer, alternatives)
            sequence.append(token, told)
        if sequence.ended:
            self._leave(sequence)

    def _score(self, row: StepRow, positions: list[Position], answer: StepAnswer) -> None:
        """Notes the log-probabilities of the prompt's tokens: each stands in the logits of the position before it."""
        sequence = positions[0].sequence
        prompt = sequence.request.prompt_tokens
        if row.past_length == 0:
            sequence.note_prompt_logprob(0, first_of_prompt(self.model.tokenizer, prompt[0]))
        for position, place in zip(positions, range(row.past_length + 1, len(prompt)), strict=False):
            alternatives = sequence.request.logprobs or 0
            told = logprob(self.model.tokenizer, position, prompt[place], answer, alternatives)
            sequence.note_prompt_logprob(place, told)

    def _note_answer(self) -> None:
        if self._failing_since is not None:
            logger.info("Triton answers again after %.1f s", time.monotonic() - self._failing_since)
        self._step_began, self._failing_since, self._last_answer = None, None, time.monotonic()

    async def _recover(self, exc: Exception, began: float) -> None:
        """A failed step is tried again, since no token of it was taken; past the deadline all texts end with an error."""
        self._step_began = None
        if not isinstance(exc, BackendUnavailable):
            logger.error("the step met an unexpected error", exc_info=exc)
            self.end_texts(InternalError())
        elif self._failing_since is None:
            self._failing_since = began
            logger.warning("Triton does not answer, trying again for %.0f s: %s", self._recovery_timeout, exc.detail)
        if self._failing_since is not None and time.monotonic() - self._failing_since > self._recovery_timeout:
            logger.error("Triton has not answered for %.0f s: every text ends with an error", self._recovery_timeout)
            self._failing_since = None
            self.end_texts(BackendUnavailable("The model server does not answer. Please try again.", retry_after=2))
        await asyncio.sleep(RETRY_PAUSE)

    def _leave(self, sequence: Sequence) -> None:
        if self._scheduler.remove(sequence):
            self._release.append(sequence.id)
            self._wake.set()
