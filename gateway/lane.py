"""The loop on one Triton: schedule, step, sample, deliver. Every text that runs there goes through its steps."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

import numpy as np

from gateway.choosing import Position, accepted, choose, first_of_prompt, logprob, positions_of
from gateway.errors import BackendUnavailable, InternalError, TidegateError
from gateway.model import Model
from gateway.scheduler import rows_of
from gateway.sequence import Sequence
from gateway.settings import Settings
from gateway.speculation import Speculation
from gateway.step import NO_SLOT, Backend, StepAnswer, StepRow
from gateway.step_costs import StepCosts

logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.1  # seconds between attempts while Triton does not answer, or while it has no slot
PROBE_TIMEOUT = 1.0  # seconds
STALLED_AFTER = 10.0  # seconds that a step may take before its Triton counts as stuck


class Lane:
    """One model on one Triton. ``changed`` is called when a slot became free, and when it fails or answers again."""

    def __init__(self, address: str, backend: Backend, model: Model, settings: Settings, changed: Callable[[], None]) -> None:
        self.address, self.model = address, model
        self.texts: list[Sequence] = []  # that run here
        self.failing_since: float | None = None  # the beginning of the first step of those that have failed in a row
        self._backend, self._changed = backend, changed
        self._costs = StepCosts(model.slots, settings.prefill_chunk)
        self._speculation = Speculation(self._costs)
        self._release: list[int] = []  # ended sequences that Triton does not know of yet
        self._wake = asyncio.Event()
        self._step_began: float | None = None  # of the step that Triton works on
        self._last_answer = -PROBE_TIMEOUT  # when Triton last answered a step
        self._choosing: asyncio.Future[list[int]] | None = None  # in a thread
        self._task = asyncio.create_task(self._run(), name=f"lane {model.name} {address}")

    @property
    def free_slots(self) -> int:
        return max(0, self.model.slots - len(self.texts))

    @property
    def alive(self) -> bool:
        """Whether its loop runs: it always should."""
        return not self._task.done()

    async def close(self) -> None:
        """Its texts stay in ``texts``, each with every token that was chosen for it."""
        while self._choosing is not None and not self._choosing.done():  # a grammar that has taken a token cannot give it back
            await asyncio.wait({self._choosing})
            await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def add(self, sequence: Sequence) -> None:
        sequence.started = sequence.started or time.monotonic()
        self.texts.append(sequence)
        self._wake.set()

    def remove(self, sequence: Sequence) -> None:
        """Takes a text out that has ended; its slot is freed with the next step."""
        self.take_back(sequence)
        self._changed()

    def take_back(self, sequence: Sequence) -> None:
        """Takes a text out that goes on elsewhere or ends with all others; Triton is told when it next answers."""
        self.texts.remove(sequence)
        self._release.append(sequence.id)
        self._wake.set()

    async def probe(self) -> None:
        """Raises BackendUnavailable unless Triton answered a real step within the last second, or answers one within the next.

        While it works on a step it counts as alive: a step over many long prompts may take seconds.
        """
        now = time.monotonic()
        busy = self.failing_since is None and self._step_began is not None and now - self._step_began < STALLED_AFTER
        if busy or now - self._last_answer < PROBE_TIMEOUT:
            return
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._probe_step()
        except TimeoutError as exc:
            raise BackendUnavailable("The model server does not answer within a second.", retry_after=2) from exc
        except BackendUnavailable as exc:
            self._note_failure(exc, now)
            raise
        finally:
            self._wake.set()

    async def _probe_step(self) -> None:
        """A real step, of one token that nobody reads."""
        row = StepRow(secrets.randbits(64), past_length=0, tokens=np.zeros(1, np.int32), token_limit=1)
        await self._backend.step(self.model, [row], [])
        self._last_answer = time.monotonic()
        self._release.append(row.sequence_id)

    async def _run(self) -> None:
        while True:
            planned = time.monotonic()
            batch = rows_of(self.texts, self._speculation.plan, self._costs.prefill_budget)
            if not batch and not self._release and self.failing_since is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            release, self._release = self._release, []
            began = self._step_began = time.monotonic()
            try:
                if batch or release:
                    answer = await self._backend.step(self.model, [row for _, row in batch], release)
                    self._note_answer()
                    await self._deliver(batch, answer)
                    self._learn(batch, answer, time.monotonic() - planned)
                else:  # its texts run elsewhere: is it back?
                    await self._probe_step()
                    self._note_answer()
            except Exception as exc:
                self._release = release + self._release
                await self._recover(exc, began)
            else:
                if batch and (answer.cached_length == NO_SLOT).all():
                    await asyncio.sleep(RETRY_PAUSE)

    def _learn(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer, seconds: float) -> None:
        """What the step took, with all that the gateway did for it; a grammar's time is its own."""
        self._speculation.note_step(batch, answer)
        if not self._costs.known or not any(sequence.has_grammar for sequence, _ in batch):
            self._costs.note_step([row for _, row in batch], answer, seconds)

    async def _deliver(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer) -> None:
        """Notes what is cached and appends a token to every sequence whose last token was computed."""
        ready = []
        place, full = 0, iter(answer.logits)
        lengths = zip(answer.cached_length.tolist(), answer.reused_length.tolist(), strict=True)
        for (sequence, row), (cached_length, reused_length) in zip(batch, lengths, strict=True):
            reached_end = cached_length == row.past_length + len(row.tokens)
            positions = positions_of(sequence, row, place, full) if reached_end else []
            place += len(positions)
            if sequence not in self.texts or sequence.cached != row.past_length:
                continue  # its reader has left meanwhile, or it was moved to another Triton
            sequence.note_cached(cached_length, reused_length)
            if positions and sequence.scoring:
                self._score(row, positions, answer)
            if positions and sequence.missing == 0:
                ready += positions[-1 - row.drafts :]
        if any(position.sequence.has_grammar for position in ready):
            self._choosing = asyncio.ensure_future(asyncio.to_thread(choose, ready, answer))
            tokens = await self._choosing  # grammars take their time: others are served meanwhile
        else:
            tokens = choose(ready, answer)
        # gRPC sends the next step in the event loop's next turn. Readers hear of this one in the turn after: what they do for
        # their clients then overlaps Triton's work.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, _tell_readers, {position.sequence for position in ready})
        for position, token in accepted(ready, tokens):
            if position.sequence in self.texts:
                self._append(position, token, answer)

    def _append(self, position: Position, token: int, answer: StepAnswer) -> None:
        sequence = position.sequence
        if sequence.request.max_tokens == 0:
            sequence.finish_without_text()
        elif not sequence.ended:  # its grammar may have failed
            alternatives = sequence.request.logprobs
            told = None if alternatives is None else logprob(self.model.tokenizer, position, token, answer, alternatives)
            sequence.append(token, told, drafted=token == position.draft)
        if sequence.ended:
            self.remove(sequence)

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
        since, self.failing_since = self.failing_since, None
        self._step_began, self._last_answer = None, time.monotonic()
        if since is not None:
            logger.info("Triton at %s answers again after %.1f s", self.address, time.monotonic() - since)
            self._changed()

    async def _recover(self, exc: Exception, began: float) -> None:
        """A failed step is tried again, since no token of it was taken; the engine may move the texts to another Triton."""
        self._step_began = None
        if not isinstance(exc, BackendUnavailable):
            logger.error("the step met an unexpected error", exc_info=exc)
            self._fail_all(InternalError())
        else:
            self._note_failure(exc, began)
        self._changed()
        await asyncio.sleep(RETRY_PAUSE)

    def _note_failure(self, exc: BackendUnavailable, began: float) -> None:
        if self.failing_since is None:
            self.failing_since = began
            logger.warning("Triton at %s does not answer: %s", self.address, exc.detail)

    def _fail_all(self, error: TidegateError) -> None:
        for sequence in list(self.texts):
            sequence.fail(error)
            self.remove(sequence)


def _tell_readers(sequences: set[Sequence]) -> None:
    for sequence in sequences:
        sequence.tell_reader()
