"""The loop for one model on one Triton: schedule, step, deliver."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from backends.onnx_decoder.contract.limits import NO_SLOT
from gateway.engine.delivery import Delivery, isolated
from gateway.engine.lookahead import Lookahead
from gateway.engine.scheduler import Batch, next_batch
from gateway.engine.sequence import Sequence
from gateway.engine.step import Backend, StepAnswer
from gateway.engine.step_costs import StepCosts
from gateway.errors import STOPS, BackendUnavailable, InternalError
from gateway.settings import Settings
from gateway.text.model import Model

logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.1  # seconds between attempts while Triton does not answer or has no free slot
PROBE_TIMEOUT = RELEASE_TIMEOUT = 1.0  # seconds
LATE = 0.1  # seconds by which our own event loop may be late
MOST_LATE_LOOKS = 3
STALLED_AFTER = 10.0  # seconds a step may take before its Triton counts as stuck
PATIENCE = 0.5  # fraction of a step's time that the next step waits for tokens selected in threads
MOST_FAILED_ALONE = 3  # failed steps in a row with this sequence alone, on a Triton that answered before: then it is to blame


class Replica:
    """One model on one Triton. ``changed`` is called when a slot becomes free and when Triton fails or answers again.
    ``put_back`` is called with each sequence that got no slot because other gateways hold them."""

    def __init__(
        self,
        address: str,
        backend: Backend,
        model: Model,
        settings: Settings,
        changed: Callable[[], None],
        put_back: Callable[[Sequence], None],
    ) -> None:
        self.address, self.model = address, model
        self.sequences: dict[Sequence, None] = {}  # running here, in order of admission
        self.failing_since: float | None = None  # when the first of the steps that failed in a row began
        self._backend, self._changed, self._put_back = backend, changed, put_back
        self._slots = model.slots  # those that other gateways leave, as last seen
        self._retry: asyncio.TimerHandle | None = None  # resets _slots, to find out whether more are free
        self._costs = StepCosts(model.slots, settings.prefill_chunk, model.joined_tokens)
        self._lookahead = Lookahead(self._costs, model, settings.run_ahead / 1000)
        self._release: list[int] = []  # removed sequences that Triton has not been told about yet
        self._wake = asyncio.Event()
        self._step_began: float | None = None  # of the step in flight
        self._last_answer = -PROBE_TIMEOUT  # when Triton last answered a step
        self._closing = False
        self._delivery = Delivery(model, self.sequences.__contains__)
        self._task = asyncio.create_task(self._run(), name=f"replica {model.name} {address}")
        self._task.add_done_callback(_log_end)

    @property
    def free_slots(self) -> int:
        return max(0, self._slots - len(self.sequences))

    @property
    def alive(self) -> bool:
        """Whether its loop is running. It always should be, until `close`."""
        return self._closing or not self._task.done()

    async def close(self) -> None:
        """Stops the loop. Its sequences stay in ``sequences`` with all their tokens. Sequences taken out earlier are released,
        so that other gateways can use their slots."""
        self._closing = True
        self._task.cancel()
        if self._retry is not None:
            self._retry.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._release and self.failing_since is None:
            with suppress(BackendUnavailable, InternalError, TimeoutError):
                await asyncio.wait_for(self._backend.step(self.model, [], self._release), RELEASE_TIMEOUT)

    def add(self, sequence: Sequence) -> None:
        sequence.record.started = sequence.record.started or time.monotonic()
        sequence.wake = self._wake.set
        self.sequences[sequence] = None
        self._wake.set()

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence that has ended; the next step frees its slot."""
        self.take_back(sequence)
        self._changed()

    def take_back(self, sequence: Sequence) -> None:
        """Removes a sequence without calling ``changed``; the next step frees its slot."""
        del self.sequences[sequence]
        self._release.append(sequence.id)
        self._wake.set()

    async def probe(self) -> None:
        """Raises BackendUnavailable unless Triton answered a step within the last second or answers one within the next.

        It counts as alive during a step: one with many long prompts may take seconds.
        """
        now = time.monotonic()
        busy = self.failing_since is None and self._step_began is not None and now - self._step_began < STALLED_AFTER
        if busy or now - self._last_answer < PROBE_TIMEOUT:
            return
        try:
            await self._answer_in_time()
        except BackendUnavailable as exc:
            self._note_failure(exc, now)
            raise
        finally:
            self._wake.set()

    async def _answer_in_time(self) -> None:
        """Asks again if our own event loop was too busy to see an answer: then silence proves nothing."""
        for _ in range(MOST_LATE_LOOKS):
            began = time.monotonic()
            asked = asyncio.ensure_future(self._probe_step())
            asked.add_done_callback(_look_at)
            await asyncio.wait({asked}, timeout=PROBE_TIMEOUT)
            done, _ = await asyncio.wait({asked}, timeout=LATE)  # the answer may have come in time but not been processed
            if done:
                return await asked
            if time.monotonic() - began < PROBE_TIMEOUT + 2 * LATE:
                break
        raise BackendUnavailable("The model server does not answer within a second.", retry_after=2)

    async def _probe_step(self) -> None:
        """Runs a step without rows: the backend computes one token, which is discarded."""
        await self._backend.step(self.model, [], [])
        self._last_answer = time.monotonic()

    async def _run(self) -> None:
        while True:
            planned = time.monotonic()
            batch, time_budget = self._plan()
            if not batch and not self._release and self.failing_since is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            release, self._release = self._release, []
            began = self._step_began = time.monotonic()
            try:
                if batch or release:
                    answer = await self._backend.step(self.model, [row for _, row in batch], release, time_budget)
                    self._note_answer()
                    later = self._delivery.deliver(batch, answer)
                    self._hand_back(batch, answer)
                    seconds = time.monotonic() - planned
                    self._learn(batch, answer, seconds)
                    if later:
                        await asyncio.wait(later, timeout=PATIENCE * seconds)
                else:  # is it back?
                    await self._probe_step()
                    self._note_answer()
            except STOPS:
                raise
            except BaseException as exc:  # nothing ends this loop
                self._release = release + self._release
                await self._recover(exc, began, [sequence for sequence, _ in batch])

    def _hand_back(self, batch: Batch, answer: StepAnswer) -> None:
        """Returns sequences that got no slot to the engine's queue: another Triton may have one."""
        refused = np.flatnonzero(answer.cached_length == NO_SLOT)
        if not len(refused):
            return
        for sequence in [batch[row][0] for row in reversed(refused)]:
            if self.sequences.pop(sequence, self) is None:
                self._put_back(sequence)
        self._slots = len(self.sequences)
        self._retry = self._retry or asyncio.get_running_loop().call_later(RETRY_PAUSE, self._try_again)
        self._changed()

    def _try_again(self) -> None:
        self._slots, self._retry = self.model.slots, None
        self._changed()

    def _plan(self) -> tuple[Batch, float | None]:
        """The rows of the next step and its time budget. After a failed step, once Triton answers again, each sequence of that
        step runs alone until it gets a token. So a sequence that crashes Triton fails alone."""
        for sequence in [one for one in self.sequences if one.ended]:
            self.remove(sequence)
        running = [sequence for sequence in self.sequences if sequence.runnable]
        suspects = [sequence for sequence in running if sequence.suspect]
        if suspects and self.failing_since is not None:
            return [], None
        try:
            return next_batch(suspects[:1] or running, self._lookahead, self._costs.prefill_budget)
        except STOPS:
            raise
        except BaseException:  # find out which sequence caused it
            return self._plan_each(running)

    def _plan_each(self, running: list[Sequence]) -> tuple[Batch, float | None]:
        """Plans every sequence by itself, so that an error ends only the sequence that raised it."""
        batch: Batch = []
        budgets: list[float] = []
        for sequence in running:
            with isolated(sequence):
                rows, budget = next_batch([sequence], self._lookahead, self._costs.prefill_budget)
                batch += rows
                budgets += [] if budget is None else [budget]
        return batch, min(budgets, default=None)

    def _learn(self, batch: Batch, answer: StepAnswer, seconds: float) -> None:
        """``seconds``: the whole step, including the gateway's own work except token selection in threads."""
        self._lookahead.speculation.note_step(batch, answer)
        self._costs.note_step([row for _, row in batch], answer, seconds)

    def _note_answer(self) -> None:
        since, self.failing_since = self.failing_since, None
        self._step_began, self._last_answer = None, time.monotonic()
        if since is not None:
            logger.info("Triton at %s answers again after %.1f s", self.address, time.monotonic() - since)
            self._changed()

    async def _recover(self, exc: BaseException, began: float, sequences: list[Sequence]) -> None:
        """Prepares to retry a failed step: none of its tokens was used. The engine may move its sequences to another Triton."""
        self._step_began = None
        if self.failing_since is None:  # Triton answered before this step
            self._note_suspects(exc, sequences)
        if not isinstance(exc, BackendUnavailable):
            logger.error("The step met an unexpected error", exc_info=exc)
        if isinstance(exc, BackendUnavailable) or not sequences:
            self._note_failure(exc, began)
        # Jitter: otherwise a gateway whose step failed together with ours would collide with our retries too.
        await asyncio.sleep(RETRY_PAUSE * random.uniform(0.5, 1.5))

    def _note_suspects(self, exc: BaseException, sequences: list[Sequence]) -> None:
        """Marks the sequences of a failed step. If one was alone in it and Triton refuses it, or keeps dying of it, that
        sequence is to blame and ends."""
        here = [sequence for sequence in sequences if sequence in self.sequences]
        for sequence in here:
            sequence.take_again()
        if len(sequences) == len(here) == 1:
            (sequence,) = here
            sequence.failed_alone += 1
            if sequence.failed_alone == MOST_FAILED_ALONE or not isinstance(exc, BackendUnavailable):
                with isolated(sequence):
                    raise InternalError from exc
                self.remove(sequence)

    def _note_failure(self, exc: BaseException, began: float) -> None:
        if self.failing_since is None:
            self.failing_since = began
            self._changed()
            reason = exc.detail if isinstance(exc, BackendUnavailable) else type(exc).__name__
            logger.warning("Triton at %s does not answer: %s", self.address, reason)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.critical("%s has ended: it never should", task.get_name(), exc_info=error)


def _look_at(asked: asyncio.Future[None]) -> None:
    """Retrieves the exception of an abandoned probe, so that asyncio does not warn about it."""
    if not asked.cancelled():
        asked.exception()
