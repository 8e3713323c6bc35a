"""From a step's answer to tokens of its sequences. Whatever goes wrong with one sequence ends that one alone."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from gateway.choosing import Position, accepted, choose, choose_from_whole, first_of_prompt, logprob, positions_of
from gateway.errors import STOPS, InternalError, TidegateError
from gateway.logs import current_request_id
from gateway.model import Model
from gateway.sequence import Sequence
from gateway.step import StepAnswer, StepRow

logger = logging.getLogger(__name__)

NO_TOKEN = -1  # of a sequence that has ended
SLOW = 0.005  # seconds of processor time: a text with a grammar whose last token took more chooses its next among its like

Batch = list[tuple[Sequence, StepRow]]


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
_QUICK = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "choosing")
_SLOW = ThreadPoolExecutor(1, "choosing slowly")


class Delivery:
    """Of one lane. ``holds`` says whether a sequence still runs there, ``remove`` takes one out that has ended."""

    def __init__(self, model: Model, holds: Callable[[Sequence], bool], remove: Callable[[Sequence], None]) -> None:
        self._model, self._holds, self._remove = model, holds, remove

    def deliver(self, batch: Batch, answer: StepAnswer) -> set[asyncio.Future[int]]:
        """Notes what is cached and appends a token, and the drafts that were right, to every sequence whose last token was
        computed. Some tokens are chosen in threads: those come later, and are returned as futures.
        """
        here, later = [], set()
        for position in self._positions(batch, answer):
            if position.logits is None:
                here.append(position)
            elif choice := self._choose_in_thread(position, answer):
                later.add(choice)
        for position, token in accepted(here, self._chosen(here, answer)):
            self._append(position, token, answer)
        self._tell_readers_soon([sequence for sequence, _ in batch])
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
        if sequence.missing > 0:
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

    def _choose_in_thread(self, position: Position, answer: StepAnswer) -> asyncio.Future[int] | None:
        """None where no thread took it: its sequence has ended then."""
        sequence = position.sequence
        with isolated(sequence):
            threads = _SLOW if sequence.chooses_slowly(SLOW) else _QUICK
            future = asyncio.get_running_loop().run_in_executor(threads, _timed_choice, position)
            sequence.choosing = True
            future.add_done_callback(partial(self._take_choice, position, answer))
            return future
        return None

    def _take_choice(self, position: Position, answer: StepAnswer, future: asyncio.Future[int]) -> None:
        """Wherever the sequence runs by now, or waits: a grammar that has taken a token cannot give it back."""
        sequence = position.sequence
        sequence.choosing = False
        with isolated(sequence):
            self._append(position, future.result(), answer)
        self._tell_readers_soon([sequence])
        self._remove_ended(sequence)
        sequence.wake()

    def _tell_readers_soon(self, sequences: list[Sequence]) -> None:
        """gRPC sends the next step in the event loop's next turn. Readers hear of this one in the turn after: what they do for
        their clients then overlaps Triton's work."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._tell_readers, sequences)

    def _tell_readers(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            with isolated(sequence):
                sequence.tell_reader()
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


def _timed_choice(position: Position) -> int:
    began = time.thread_time()
    try:
        return choose_from_whole(position)
    finally:
        position.sequence.seconds_of_choice = time.thread_time() - began
