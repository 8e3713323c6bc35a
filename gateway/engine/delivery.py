"""From a step's answer to new tokens of its sequences. An error in one sequence ends only that sequence."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from gateway.engine.scheduler import Batch
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.engine.token_selection import Selection, first_of_prompt, logprob, select, select_from_whole, selection_of
from gateway.errors import STOPS, InternalError, TidegateError
from gateway.telemetry.logs import current_request_id
from gateway.text.model import Model

logger = logging.getLogger(__name__)

SLOW = 0.005  # seconds of CPU time: a sequence whose grammar took longer for its last token uses the slow thread

Choice = int | BaseException  # a token, or the error


class isolated:
    """Ends ``sequence`` with an error if the block raises. Unexpected errors are logged with the request id.

    Catches BaseException, since a panic in a Rust library is one.
    """

    __slots__ = ("_sequence",)

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if error is None or isinstance(error, STOPS):
            return False
        if not self._sequence.failed:  # only once; also if it had finished, since its reader may not know that yet
            self._sequence.fail(_as_ours(error, self._sequence))
        return True


def _as_ours(error: BaseException, sequence: Sequence) -> TidegateError:
    if isinstance(error, TidegateError):
        return error
    before = current_request_id.set(sequence.request.request_id)
    logger.error("A sequence met an unexpected error and ends; others go on", exc_info=error)
    current_request_id.reset(before)
    return InternalError()


# Threads that select from whole rows of logits. Sequences with slow grammars share one thread and delay only each other.
QUICK_THREADS = max(1, (os.cpu_count() or 1) // 2)
_QUICK = ThreadPoolExecutor(QUICK_THREADS, "choosing")
_SLOW = ThreadPoolExecutor(1, "choosing slowly")


class Delivery:
    """Delivers the answers of one replica. ``holds`` says whether a sequence still runs there."""

    def __init__(self, model: Model, holds: Callable[[Sequence], bool]) -> None:
        self._model, self._holds = model, holds

    def deliver(self, batch: Batch, answer: StepAnswer) -> set[asyncio.Future[list[Choice]]]:
        """Updates cached lengths and appends tokens to every sequence whose row was fully computed: the accepted drafts and one
        more. Tokens that are selected in threads come later; returns their futures.
        """
        selections = self._note(batch, answer)
        here = [one for one in selections if one.logits is None]
        later = self._select_in_threads([one for one in selections if one.logits is not None], answer)
        for selection, tokens in zip(here, self._selected(here, answer), strict=True):
            self._append(selection, tokens, answer)
        self._notify_soon([sequence for sequence, _ in batch])
        return later

    def _note(self, batch: Batch, answer: StepAnswer) -> list[Selection]:
        """Stores everything else in the answer. Returns a selection for each sequence that gets tokens."""
        selections: list[Selection] = []
        end = end_full = end_drawn = 0
        lengths = zip(answer.cached_length.tolist(), answer.reused_length.tolist(), answer.drawn_count.tolist(), strict=True)
        for (sequence, row), (cached_length, reused_length, drawn_count) in zip(batch, lengths, strict=True):
            reached_end = cached_length == row.past_length + len(row.tokens) + drawn_count
            count = row.logit_count + drawn_count if reached_end else 0
            end, begin_full, begin_drawn = end + count, end_full, end_drawn
            end_full += count * row.full_logits
            end_drawn += drawn_count
            if not self._holds(sequence) or sequence.cached != row.past_length:
                continue  # meanwhile its reader left, or it was moved to another Triton
            with isolated(sequence):
                sequence.note_cached(cached_length, reused_length, row.drafts if reached_end else 0)
                if count:
                    drawn, logits = answer.drawn[begin_drawn:end_drawn], answer.logits[begin_full:end_full]
                    if self._needs_token(sequence, row, end - count, logits, answer):
                        selections.append(selection_of(sequence, row, drawn, end, logits))
        return selections

    def _needs_token(self, sequence: Sequence, row: StepRow, begin: int, logits: np.ndarray, answer: StepAnswer) -> bool:
        """Called when a row was fully computed. Also stores the log-probabilities of a prompt that is scored."""
        if sequence.scoring:
            self._score(sequence, row, begin, logits, answer)
        if sequence.request.max_tokens == 0:
            if not sequence.scoring:  # the prompt is scored, and no token was requested
                sequence.finish_without_text()
            return False
        return sequence.num_uncomputed_tokens == 0

    def _selected(self, selections: list[Selection], answer: StepAnswer) -> list[list[int]]:
        """Selects for all sequences at once. If that fails, selects for each alone and ends those that fail."""
        try:
            return select(selections, answer)
        except STOPS:
            raise
        except BaseException:
            return [self._selected_alone(selection, answer) for selection in selections]

    def _selected_alone(self, selection: Selection, answer: StepAnswer) -> list[int]:
        with isolated(selection.sequence):
            return select([selection], answer)[0]
        return []

    def _append(self, selection: Selection, tokens: list[int], answer: StepAnswer) -> None:
        sequence = selection.sequence
        with isolated(sequence):
            if sequence.ended:
                return
            logprobs = None
            if (alternatives := sequence.request.logprobs) is not None:
                tokenizer, logits = self._model.tokenizer, selection.logits
                logprobs = [
                    logprob(tokenizer, answer, position, token, alternatives, logits)
                    for position, token in enumerate(tokens, selection.position)
                ]
            sequence.append(tokens, logprobs)

    def _select_in_threads(self, selections: list[Selection], answer: StepAnswer) -> set[asyncio.Future[list[Choice]]]:
        """Quick selections share a call to a thread: a call each would cost more than the selection itself."""
        slow, quick = list[Selection](), list[Selection]()
        for selection in selections:
            with isolated(selection.sequence):
                (slow if selection.sequence.chooses_slowly(SLOW) else quick).append(selection)
        parts = [(_SLOW, [selection]) for selection in slow] + [(_QUICK, quick[n::QUICK_THREADS]) for n in range(QUICK_THREADS)]
        begun = (self._select_in_thread(threads, part, answer) for threads, part in parts if part)
        return {future for future in begun if future is not None}

    def _select_in_thread(
        self, threads: ThreadPoolExecutor, selections: list[Selection], answer: StepAnswer
    ) -> asyncio.Future[list[Choice]] | None:
        """Returns None if the system cannot start a thread; then the tokens are selected right here."""
        try:
            future = asyncio.get_running_loop().run_in_executor(threads, _choices, selections)
        except RuntimeError as error:
            logger.warning("Tokens are chosen on the event loop: %s", error)
            self._take(selections, _choices(selections), answer)
            return None
        for selection in selections:
            selection.sequence.choosing = True
        future.add_done_callback(lambda done: self._take(selections, done.result(), answer))
        return future

    def _take(self, selections: list[Selection], choices: list[Choice], answer: StepAnswer) -> None:
        """Appends the tokens wherever the sequences are by now: a grammar cannot undo a token."""
        for selection, choice in zip(selections, choices, strict=True):
            selection.sequence.choosing = False
            with isolated(selection.sequence):
                if isinstance(choice, BaseException):
                    raise choice
                self._append(selection, [choice], answer)
        self._notify_soon([selection.sequence for selection in selections])
        for selection in selections:
            selection.sequence.wake()

    def _notify_soon(self, sequences: list[Sequence]) -> None:
        """gRPC sends the next step in the event loop's next iteration. Readers are notified one iteration later, so that their
        work overlaps Triton's."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._notify_all, sequences)

    def _notify_all(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            with isolated(sequence):
                sequence.notify()

    def _score(self, sequence: Sequence, row: StepRow, begin: int, logits: np.ndarray, answer: StepAnswer) -> None:
        """Stores the prompt's log-probabilities: each token's comes from the logits of the position before it.

        ``begin``: the row's first position in the answer; ``logits`` [positions, vocabulary].
        """
        prompt, tokenizer = sequence.request.prompt_tokens, self._model.tokenizer
        if row.past_length == 0:
            sequence.note_prompt_logprob(0, first_of_prompt(tokenizer, prompt[0]))
        alternatives = sequence.request.prompt_logprobs or 0
        for offset, index in enumerate(range(row.past_length + 1, min(row.past_length + 1 + len(logits), len(prompt)))):
            token, row_logits = prompt[index], logits[offset]
            scored = logprob(tokenizer, answer, begin + offset, token, alternatives, row_logits)
            rank = 1 + int((row_logits > row_logits[token]).sum())
            sequence.note_prompt_logprob(index, replace(scored, rank=rank))


def _choices(selections: list[Selection]) -> list[Choice]:
    """A token or an error for each selection."""
    choices: list[Choice] = []
    for selection in selections:
        began = time.thread_time()
        try:
            choices.append(select_from_whole(selection))
        except BaseException as error:  # its sequence's own
            choices.append(error)
        selection.sequence.seconds_of_choice = time.thread_time() - began
    return choices
