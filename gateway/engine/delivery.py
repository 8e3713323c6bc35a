"""From a step's answer to tokens of its sequences. Whatever goes wrong with one sequence ends that one alone."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.engine.token_selection import (
    Position,
    choose,
    choose_from_whole,
    first_of_prompt,
    logprob,
    positions_of,
    verify_drafts,
)
from gateway.errors import STOPS, InternalError, TidegateError
from gateway.telemetry.logs import current_request_id
from gateway.text.model import Model

logger = logging.getLogger(__name__)

NO_TOKEN = -1  # of a sequence that has ended
SLOW = 0.005  # seconds of processor time: a text with a grammar whose last token took more chooses its next among its like

Batch = list[tuple[Sequence, StepRow]]
Choice = int | BaseException  # a token, or what went wrong


@contextmanager
def isolated(sequence: Sequence) -> Iterator[None]:
    """Ends ``sequence`` with an error where the block raises anything. An unexpected one is logged, with the request's id.

    A BaseException too: a panic of a library in Rust is one.
    """
    try:
        yield
    except STOPS:
        raise
    except BaseException as error:
        if not sequence.failed:  # once; also where it had come to its end: perhaps nobody heard of that
            sequence.fail(_as_ours(error, sequence))


def _as_ours(error: BaseException, sequence: Sequence) -> TidegateError:
    if isinstance(error, TidegateError):
        return error
    before = current_request_id.set(sequence.request.request_id)
    logger.error("A sequence met an unexpected error and ends; others go on", exc_info=error)
    current_request_id.reset(before)
    return InternalError()


# Where whole rows of logits are chosen from. Texts whose grammars take long wait for each other alone.
QUICK_THREADS = max(1, (os.cpu_count() or 1) // 2)
_QUICK = ThreadPoolExecutor(QUICK_THREADS, "choosing")
_SLOW = ThreadPoolExecutor(1, "choosing slowly")


class Delivery:
    """Of one replica. ``holds`` says whether a sequence still runs there, ``remove`` takes one out that has ended."""

    def __init__(self, model: Model, holds: Callable[[Sequence], bool], remove: Callable[[Sequence], None]) -> None:
        self._model, self._holds, self._remove = model, holds, remove

    def deliver(self, batch: Batch, answer: StepAnswer) -> set[asyncio.Future[list[Choice]]]:
        """Notes what is cached and appends a token, and the drafts that were right, to every sequence whose last token was
        computed. Some tokens are chosen in threads: those come later, and are returned as futures.
        """
        ready = self._positions(batch, answer)
        here = [position for position in ready if position.logits is None]
        later = self._choose_in_threads([position for position in ready if position.logits is not None], answer)
        for position, token in verify_drafts(here, self._chosen(here, answer)):
            self._append(position, token, answer)
        self._notify_soon([sequence for sequence, _ in batch])
        for sequence, _ in batch:
            self._remove_ended(sequence)
        return later

    def _positions(self, batch: Batch, answer: StepAnswer) -> list[Position]:
        """Of the sequences that get a token, each with its place in the answer; what else the answer says is noted."""
        ready: list[Position] = []
        place = full = 0
        lengths = zip(answer.cached_length.tolist(), answer.reused_length.tolist(), strict=True)
        for (sequence, row), (cached_length, reused_length) in zip(batch, lengths, strict=True):
            count = row.logit_count if cached_length == row.past_length + len(row.tokens) else 0
            begin, begin_full = place, full
            place += count
            full += count * row.full_logits
            if not self._holds(sequence) or sequence.cached != row.past_length:
                continue  # its reader has left meanwhile, or it was moved to another Triton
            with isolated(sequence):
                sequence.note_cached(cached_length, reused_length)
                if count:
                    ready += self._positions_of(sequence, row, begin, answer, answer.logits[begin_full:full])
        return ready

    def _positions_of(
        self, sequence: Sequence, row: StepRow, place: int, answer: StepAnswer, logits: np.ndarray
    ) -> list[Position]:
        """Of one that was computed to the row's end."""
        positions = positions_of(sequence, row, place, logits)
        if sequence.scoring:
            self._score(row, positions, answer)
        if sequence.num_uncomputed_tokens > 0:
            return []
        if sequence.request.max_tokens == 0:
            sequence.finish_without_text()
            return []
        return positions[-1 - row.drafts :]

    def _chosen(self, positions: list[Position], answer: StepAnswer) -> list[int]:
        """All at once; where that fails, each alone, and those end that it fails for."""
        try:
            return choose(positions, answer)
        except STOPS:
            raise
        except BaseException:
            return [self._chosen_alone(position, answer) for position in positions]

    def _chosen_alone(self, position: Position, answer: StepAnswer) -> int:
        with isolated(position.sequence):
            return choose([position], answer)[0]
        return NO_TOKEN

    def _append(self, position: Position, token: int, answer: StepAnswer) -> None:
        sequence = position.sequence
        with isolated(sequence):
            if not sequence.ended:
                alternatives = sequence.request.logprobs
                told = None if alternatives is None else logprob(self._model.tokenizer, position, token, answer, alternatives)
                sequence.append(token, told, drafted=token == position.draft)

    def _choose_in_threads(self, positions: list[Position], answer: StepAnswer) -> set[asyncio.Future[list[Choice]]]:
        """Those that take no time share a thread's turn: a turn each would cost more than they do."""
        slow, quick = list[Position](), list[Position]()
        for position in positions:
            with isolated(position.sequence):
                (slow if position.sequence.chooses_slowly(SLOW) else quick).append(position)
        parts = [(_SLOW, [position]) for position in slow] + [(_QUICK, quick[n::QUICK_THREADS]) for n in range(QUICK_THREADS)]
        begun = (self._choose_in_thread(threads, part, answer) for threads, part in parts if part)
        return {future for future in begun if future is not None}

    def _choose_in_thread(
        self, threads: ThreadPoolExecutor, positions: list[Position], answer: StepAnswer
    ) -> asyncio.Future[list[Choice]] | None:
        """None where the system has no thread for it: then they are chosen here."""
        try:
            future = asyncio.get_running_loop().run_in_executor(threads, _choices, positions)
        except RuntimeError as error:
            logger.warning("Tokens are chosen on the event loop: %s", error)
            self._take(positions, _choices(positions), answer)
            return None
        for position in positions:
            position.sequence.choosing = True
        future.add_done_callback(lambda done: self._take(positions, done.result(), answer))
        return future

    def _take(self, positions: list[Position], choices: list[Choice], answer: StepAnswer) -> None:
        """Wherever the sequences run by now, or wait: a grammar that has taken a token cannot give it back."""
        for position, choice in zip(positions, choices, strict=True):
            position.sequence.choosing = False
            with isolated(position.sequence):
                if isinstance(choice, BaseException):
                    raise choice
                self._append(position, choice, answer)
        self._notify_soon([position.sequence for position in positions])
        for position in positions:
            self._remove_ended(position.sequence)
            position.sequence.wake()

    def _notify_soon(self, sequences: list[Sequence]) -> None:
        """gRPC sends the next step in the event loop's next turn. Readers hear of this one in the turn after: what they do for
        their clients then overlaps Triton's work."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._notify_all, sequences)

    def _notify_all(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            with isolated(sequence):
                sequence.notify()
            self._remove_ended(sequence)

    def _remove_ended(self, sequence: Sequence) -> None:
        if sequence.ended and self._holds(sequence):
            self._remove(sequence)

    def _score(self, row: StepRow, positions: list[Position], answer: StepAnswer) -> None:
        """Notes the log-probabilities of the prompt's tokens: each stands in the logits of the position before it."""
        sequence = positions[0].sequence
        prompt = sequence.request.prompt_tokens
        if row.past_length == 0:
            sequence.note_prompt_logprob(0, first_of_prompt(self._model.tokenizer, prompt[0]))
        for position, place in zip(positions, range(row.past_length + 1, len(prompt)), strict=False):
            alternatives = sequence.request.logprobs or 0
            told = logprob(self._model.tokenizer, position, prompt[place], answer, alternatives)
            sequence.note_prompt_logprob(place, told)


def _choices(positions: list[Position]) -> list[Choice]:
    """A token for each, or what went wrong with it."""
    choices: list[Choice] = []
    for position in positions:
        began = time.thread_time()
        try:
            choices.append(choose_from_whole(position))
        except BaseException as error:  # its sequence's own
            choices.append(error)
        position.sequence.seconds_of_choice = time.thread_time() - began
    return choices
