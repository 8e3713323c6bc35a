"""From a step's answer to tokens: of most rows at once, from their candidates; of the others from their whole logits."""

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
    """A row that was computed to its end, and what its sequence's next tokens are selected from."""

    sequence: Sequence
    position: int  # in the answer's candidates: of the first token that is not known. The guesses' follow
    guesses: np.ndarray  # int32: the next tokens, drafted here or drawn by the backend; one more follows them
    logits: np.ndarray | None = None  # float32 [vocabulary], where the row asked for it: there are no guesses then


def selection_of(sequence: Sequence, row: StepRow, drawn: np.ndarray, end: int, logits: np.ndarray) -> Selection:
    """Of a row whose positions in the answer end before ``end``. ``drawn``: what the backend has drawn behind its tokens;
    ``logits`` [positions, vocabulary], where the row asked for them."""
    guesses = drawn if len(drawn) else row.tokens[len(row.tokens) - row.drafts :]
    return Selection(sequence, end - 1 - len(guesses), guesses, logits[-1] if row.full_logits else None)


def select(selections: list[Selection], answer: StepAnswer) -> list[list[int]]:
    """The next tokens of each, from its candidates: as many as its guesses prove right, and the one behind them.

    Each token is drawn with its own number of the seed's stream, which guesses do not change.
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
    """Of each sequence the tokens up to the first one that is not its guess, which is still a token of the text: whatever was
    guessed, each token is drawn from the model's own distribution behind those before it.

    A guess g is accepted as often as g is drawn, with p(g), and else replaced by a draw of what is not g: for guesses without
    chance the rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023), with the very draws of a text without it.
    """
    guessed = np.full(len(tokens), NO_GUESS, np.int32)
    for start, one in zip(starts.tolist(), selections, strict=True):
        guessed[start : start + len(one.guesses)] = one.guesses
    wrong = np.flatnonzero(tokens != guessed)  # at least each sequence's last one
    ends = wrong[np.searchsorted(wrong, starts)] + 1
    listed = tokens.tolist()
    return [listed[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def select_from_whole(selection: Selection) -> int:
    """A token from all logits, by bias, penalties and the sequence's grammar too: for a thread, since that may take its time.
    Called once for a token. Raises InvalidRequest where the grammar comes to no token.
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

    ``token`` is one of the candidates, or the position's whole ``logits`` [vocabulary] are given.
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
