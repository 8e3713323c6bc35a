"""Selects tokens from a step's answer: for most rows at once from their candidates, for the others from whole logits."""

from typing import NamedTuple

import numpy as np

from backends.onnx_decoder.contract.drawing import Rules, sample, uniforms
from gateway.engine.generation import TokenLogprob
from gateway.engine.sampling import changed_logits, sample_whole
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.text.tokenizer import Tokenizer

NO_GUESS = -1


class Selection(NamedTuple):
    """A fully computed row, and what its sequence's next tokens are selected from."""

    sequence: Sequence
    position: int  # of the first unknown token, in the answer's candidates; the guesses' positions follow
    guesses: np.ndarray  # int32: the next tokens, drafted here or drawn by the backend; one more token follows them
    logits: np.ndarray | None = None  # float32 [vocabulary], if the row requested it; then there are no guesses


def selection_of(sequence: Sequence, row: StepRow, drawn: np.ndarray, end: int, logits: np.ndarray) -> Selection:
    """The selection for a row whose positions in the answer end before ``end``. ``drawn``: tokens that the backend drew after
    the row's own; ``logits`` [positions, vocabulary], if the row requested them."""
    guesses = drawn if len(drawn) else row.tokens[len(row.tokens) - row.drafts :]
    return Selection(sequence, end - 1 - len(guesses), guesses, logits[-1] if row.full_logits else None)


def select(selections: list[Selection], answer: StepAnswer) -> list[list[int]]:
    """The next tokens of each sequence, from its candidates: the accepted guesses and one more.

    Each token is drawn with its own number from the seed's stream, so guesses do not change the output.
    """
    if not selections:
        return []
    counts = np.array([1 + len(one.guesses) for one in selections])
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    ahead = np.arange(len(owner)) - starts[owner]
    ids, logits = answer.candidate_id, answer.candidate_logit
    if len(owner) != len(ids):  # some rows of the answer are not selected from here
        positions = np.array([one.position for one in selections])[owner] + ahead
        ids, logits = ids[positions], logits[positions]
    sequences = [one.sequence for one in selections]
    rules = Rules.of([sequence.sampling for sequence in sequences])
    seeds = np.array([sequence.seed for sequence in sequences], np.uint64)[owner]
    lengths = np.array([sequence.length for sequence in sequences])[owner]
    tokens = sample(ids, logits, rules if len(owner) == len(counts) else rules[owner], uniforms(seeds, lengths + ahead))
    return _verified(tokens, starts, selections)


def _verified(tokens: np.ndarray, starts: np.ndarray, selections: list[Selection]) -> list[list[int]]:
    """Each sequence's tokens up to and including the first that differs from its guess. Whatever was guessed, each token is
    drawn from the model's own distribution given those before it.

    A guess g is accepted if g is drawn, with probability p(g), and otherwise replaced by the token drawn instead. For
    deterministic guesses that is the rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023), with exactly the
    draws that decoding without guesses would make.
    """
    guessed = np.full(len(tokens), NO_GUESS, np.int32)
    for start, one in zip(starts.tolist(), selections, strict=True):
        guessed[start : start + len(one.guesses)] = one.guesses
    wrong = np.flatnonzero(tokens != guessed)  # includes at least each sequence's last token
    ends = wrong[np.searchsorted(wrong, starts)] + 1
    listed = tokens.tolist()
    return [listed[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def select_from_whole(selection: Selection) -> int:
    """Selects a token from whole logits, with bias, penalties and the sequence's grammar. Slow, so it runs in a thread.

    Call it once per token. Raises InvalidRequest if the grammar allows no token.
    """
    sequence = selection.sequence
    assert selection.logits is not None
    logits = changed_logits(selection.logits, sequence.sampling, sequence.generated, sequence.allowed())
    uniform = uniforms(np.array([sequence.seed], np.uint64), np.array([sequence.length]))
    return sequence.matched(int(sample_whole(logits, sequence.sampling, uniform)[0]))


def logprob(
    tokenizer: Tokenizer, answer: StepAnswer, position: int, token: int, alternatives: int, logits: np.ndarray | None = None
) -> TokenLogprob:
    """``token`` at a position of the answer, with the most probable tokens there: log-probability = logit − log_normalizer.

    Unless the position's whole ``logits`` [vocabulary] are given, ``token`` must be one of the candidates.
    """
    ids, candidates = answer.candidate_id[position], answer.candidate_logit[position]
    normalizer = float(answer.log_normalizer[position])
    own = candidates[(ids == token).argmax()] if logits is None else logits[token]
    top = tuple(
        _described(tokenizer, candidate, value - normalizer)
        for candidate, value in zip(ids[:alternatives].tolist(), candidates[:alternatives].tolist(), strict=True)
    )
    return _described(tokenizer, token, float(own) - normalizer, top)


def first_of_prompt(tokenizer: Tokenizer, token: int) -> TokenLogprob:
    return _described(tokenizer, token, None)


def _described(tokenizer: Tokenizer, token: int, logprob: float | None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(token, tokenizer.token_text(token), tokenizer.token_bytes(token), logprob, top)
