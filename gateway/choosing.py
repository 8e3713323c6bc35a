"""From a step's answer to one token a sequence: most rows at once from their candidates, the others from their full logits."""

from typing import NamedTuple

import numpy as np

from gateway.errors import TidegateError
from gateway.generation import TokenLogprob
from gateway.sampling import Rules, candidates_of, sample, uniforms
from gateway.sequence import Sequence
from gateway.step import StepAnswer
from gateway.tokenizer import Tokenizer


class Position(NamedTuple):
    """Where a sequence's next token is decided: its row in the answer's candidates, and all its logits where it asked."""

    sequence: Sequence
    place: int
    logits: np.ndarray | None  # float32 [vocabulary]


def choose(positions: list[Position], answer: StepAnswer) -> list[int]:
    """A token for each position. A sequence whose grammar fails ends with an error; what stands in its place means nothing."""
    if not positions:
        return []
    sequences = [position.sequence for position in positions]
    rules = Rules.of([sequence.sampling for sequence in sequences])
    seeds = np.array([sequence.seed for sequence in sequences], np.uint64)
    uniform = uniforms(seeds, np.array([sequence.length for sequence in sequences]))
    places = [position.place for position in positions]
    tokens = sample(answer.candidate_id[places], answer.candidate_logit[places], rules, uniform)
    for index, (sequence, _, logits) in enumerate(positions):
        if logits is None:
            continue
        try:
            ids, values = candidates_of(logits, sequence.sampling, sequence.generated, sequence.allowed())
            token = sample(ids[None], values[None], rules.row(index), uniform[index : index + 1])[0]
            tokens[index] = sequence.matched(int(token))
        except TidegateError as error:
            sequence.fail(error)
    return tokens.tolist()


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
    text = tokenizer.token_bytes(token)
    return TokenLogprob(token, text.decode(errors="replace"), text, logprob, top)


def first_of_prompt(tokenizer: Tokenizer, token: int) -> TokenLogprob:
    return _told(tokenizer, token, None)
