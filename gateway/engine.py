"""The loop: schedule, step, sample, deliver. One engine a model; every text of a gateway runs through its steps."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator

import numpy as np

from gateway.errors import BackendUnavailable, ContextLengthExceeded, InternalError, InvalidRequest, Overloaded, TidegateError
from gateway.generation import Delta, GenerationRequest
from gateway.model import Model
from gateway.sampling import candidates_of, sample, uniforms
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

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"engine {self.model.name}")

    async def close(self) -> None:
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
                await self._backend.step(self.model.name, [row], [])
        except TimeoutError as exc:
            raise BackendUnavailable("The model server does not answer within a second.", retry_after=2) from exc
        self._last_answer = time.monotonic()
        self._release.append(row.sequence_id)
        self._wake.set()

    def _check(self, request: GenerationRequest) -> None:
        prompt, context = len(request.prompt_tokens), self.model.context_length
        if prompt == 0:
            raise InvalidRequest(f"{request.prompt_field} has no token; it must hold at least one.", param=request.prompt_field)
        if prompt >= context:
            raise ContextLengthExceeded(
                f"{request.prompt_field} has {prompt} tokens; "
                f"this model's context holds {context}, with at least one for the answer.",
                param=request.prompt_field,
            )
        if self._scheduler.waiting >= self._max_waiting:
            raise Overloaded(f"{self._scheduler.waiting} requests wait already. Please try again later.", retry_after=1)

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
                answer = await self._backend.step(self.model.name, [row for _, row in batch], release)
                self._note_answer()
                self._deliver(batch, answer)
            except Exception as exc:
                self._release = release + self._release
                await self._recover(exc, began)
            else:
                if batch and (answer.cached_length == NO_SLOT).all():
                    await asyncio.sleep(RETRY_PAUSE)

    def _deliver(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer) -> None:
        """Notes what is cached and appends a token to every sequence whose row reached its end."""
        ready = []
        for (sequence, row), cached_length in zip(batch, answer.cached_length.tolist(), strict=True):
            sequence.note_cached(cached_length)
            if cached_length == row.past_length + len(row.tokens):
                ready.append(sequence)
        for sequence, token in zip(ready, self._sample(ready, answer), strict=True):
            if not sequence.ended:  # its reader may have left meanwhile
                sequence.append(token)
            if sequence.ended:
                self._leave(sequence)

    def _sample(self, ready: list[Sequence], answer: StepAnswer) -> list[int]:
        """One token a sequence: all rows at once from the candidates, then those that need their full logits one by one."""
        if not ready:
            return []
        seeds = np.array([sequence.seed for sequence in ready], np.uint64)
        uniform = uniforms(seeds, np.array([sequence.length for sequence in ready]))
        temperature = np.array([sequence.sampling.temperature for sequence in ready])
        top_k = np.array([sequence.sampling.top_k for sequence in ready])
        top_p = np.array([sequence.sampling.top_p for sequence in ready])
        tokens = sample(answer.candidate_id, answer.candidate_logit, temperature, top_k, top_p, uniform)
        asked = [index for index, sequence in enumerate(ready) if sequence.full_logits]
        for logits, index in zip(answer.logits, asked, strict=True):
            one = slice(index, index + 1)
            ids, values = candidates_of(logits, ready[index].sampling, ready[index].generated)
            tokens[one] = sample(ids[None], values[None], temperature[one], top_k[one], top_p[one], uniform[one])
        return tokens.tolist()

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
