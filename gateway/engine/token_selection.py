"""From a step's answer to one token a sequence: most rows at once from their candidates, the others from their whole logits."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gateway.engine.generation import TokenLogprob
from gateway.engine.sampling import Rules, changed_logits, sample, sample_whole, uniforms
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.text.tokenizer import Tokenizer


class Position(NamedTuple):
    """Where a token of a sequence is decided: its row in the answer's candidates, and all its logits where it asked."""

    sequence: Sequence
    place: int
    logits: np.ndarray | None = None  # float32 [vocabulary]
    ahead: int = 0  # drafts between the sequence's end and the token
    draft: int | None = None  # what was guessed to stand here, where more was guessed behind it


def positions_of(sequence: Sequence, row: StepRow, place: int, logits: np.ndarray) -> list[Position]:
    """Of a row that reached its end, from ``place`` on; ``logits`` [positions, vocabulary], where the row asked for them."""
    guesses = [*row.tokens[len(row.tokens) - row.drafts :].tolist(), None]
    first_ahead = len(guesses) - row.logit_count  # of a prompt that is scored, all but the last stand before its end
    return [
        Position(sequence, place + step, logits[step] if row.full_logits else None, max(0, ahead), guesses[max(0, ahead)])
        for step, ahead in enumerate(range(first_ahead, len(guesses)))
    ]


def choose(positions: list[Position], answer: StepAnswer) -> list[int]:
    """A token for each position from its candidates, as if all drafts before it were right: `verify_drafts` says which count.
    Each is drawn with its own number of the seed's stream, which drafts do not change.
    """
    if not positions:
        return []
    sequences = [position.sequence for position in positions]
    rules = Rules.of([sequence.sampling for sequence in sequences])
    places = [position.place for position in positions]
    tokens = sample(answer.candidate_id[places], answer.candidate_logit[places], rules, _uniforms(positions))
    return tokens.tolist()


def choose_from_whole(position: Position) -> int:
    """A token for a position that has all its logits, by bias, penalties and the sequence's grammar too: for a thread, since
    that may take its time. Called once for a token. Raises InvalidRequest where the grammar comes to no token.
    """
    sequence = position.sequence
    assert position.logits is not None
    logits = changed_logits(position.logits, sequence.sampling, sequence.generated, sequence.allowed())
    return sequence.matched(int(sample_whole(logits, sequence.sampling, _uniforms([position]))[0]))


def _uniforms(positions: list[Position]) -> np.ndarray:
    seeds = np.array([position.sequence.seed for position in positions], np.uint64)
    return uniforms(seeds, np.array([position.sequence.length + position.ahead for position in positions]))


def verify_drafts(positions: list[Position], tokens: list[int]) -> Iterator[tuple[Position, int]]:
    """Of each sequence the tokens up to the first one that is not its draft, which is still a token of the text: whatever was
    guessed, each token is drawn from the model's own distribution behind those before it.

    A draft d is accepted as often as d is drawn, with p(d), and else replaced by a draw of what is not d: for guesses without
    chance the rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023), with the very draws of a text without it.
    """
    refused: set[Sequence] = set()
    for position, token in zip(positions, tokens, strict=True):
        if position.sequence not in refused:
            if token != position.draft:
                refused.add(position.sequence)
            yield position, token


def logprob(tokenizer: Tokenizer, position: Position, token: int, answer: StepAnswer, alternatives: int) -> TokenLogprob:
    """``token`` at a position, with the most probable tokens there: log-probability = logit − log_normalizer.

    ``token`` is one of the candidates, or the position has all its logits.
    """
    place = position.place
    ids, normalizer = answer.candidate_id[place], float(answer.log_normalizer[place])
    logits = answer.candidate_logit[place]
    own = logits[(ids == token).argmax()] if position.logits is None else position.logits[token]
    top = tuple(
        _told(tokenizer, candidate, value - normalizer)
        for candidate, value in zip(ids[:alternatives].tolist(), logits[:alternatives].tolist(), strict=True)
    )
    return _told(tokenizer, token, float(own) - normalizer, top)


def _told(tokenizer: Tokenizer, token: int, logprob: float | None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(token, tokenizer.token_text(token), tokenizer.token_bytes(token), logprob, top)


def first_of_prompt(tokenizer: Tokenizer, token: int) -> TokenLogprob:
    return _told(tokenizer, token, None)
