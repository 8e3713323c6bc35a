"""How many drafts pay off in a step: for the step as a whole, and so that no text in it falls behind.

Every draft makes a step longer for all its texts. So the whole step is weighed: the tokens that it will probably give by the
seconds that it will probably take, against those of the same step without drafts. And each text has a credit: it rises by a
token with each draft that was right, and falls by what each step took longer than without drafts. Nothing is drafted that would
probably make any text's credit less than a small part of its tokens: so no stream becomes slower by more than that.
"""

import numpy as np

from backends.onnx_decoder.contract.limits import JOINED_TOKENS, MORE_POSITIONS
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.engine.step_costs import StepCosts

MOST_DRAFTS_A_STEP = MORE_POSITIONS // 2  # the other half is for prompts that are scored
LEAST_CHANCE = 0.1  # a draft that is less probable is not worth the thought
LEAST_GAIN = 1.03  # tokens a second, against none drafted: what is estimated has errors
LOSS_AT_FIRST, LOSS_A_TOKEN = 0.5, 0.02  # tokens by which a text may fall behind
RETRY_AFTER, RETRY_CHANCE = 32, 0.5  # steps that passed over a draft as probable as this: then one is tried
MOST_CREDIT = 8.0  # tokens: what was gained long ago is no reason to be slow now


class Speculation:
    """Of one replica: which drafts go into its next step, by what its steps cost."""

    def __init__(self, costs: StepCosts, joined_tokens: int = JOINED_TOKENS) -> None:
        """``joined_tokens``: of a row, that are computed together with other rows."""
        self._most_drafts = joined_tokens - 1  # of a row, behind its token
        self._price = 1.0  # how many times longer the drafts make the step that was planned last
        self._passed_over = 0  # steps, since the last with drafts in it, that a probable one was too dear for
        self._costs = costs

    def note_step(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer) -> None:
        """Books on the credit of every text that got a token what the step that was planned last took longer for drafts."""
        for (sequence, row), cached in zip(batch, answer.cached_length.tolist(), strict=True) if self._price > 1 else ():
            if row.decodes and cached > 0:
                sequence.credit = min(MOST_CREDIT, sequence.credit) - (self._price - 1)

    def plan(self, decoding: list[Sequence], least_gain: float = LEAST_GAIN) -> dict[Sequence, int]:
        """How many tokens each text drafts in the next step, in which all of ``decoding`` take part; texts that draft none are
        left out. ``least_gain``: how many times the tokens a second of a plain step there must be."""
        self._price = 1.0
        if not decoding or not self._costs.known or LEAST_GAIN < least_gain >= self._most_gain(len(decoding)):
            return {}
        offers = [
            (chance, row)
            for row, sequence in enumerate(decoding)
            for chance in sequence.draft_chances(self._most_drafts)
            if chance >= LEAST_CHANCE
        ]
        if not offers:
            return {}
        offers.sort(reverse=True)  # so each text's first guess comes before its second
        del offers[MOST_DRAFTS_A_STEP:]
        prices = self._prices(len(decoding), len(offers))
        drafts: dict[Sequence, int] = {}
        slack = [_slack(sequence) for sequence in decoding]
        count = _best_count(offers, prices, slack.copy(), least_gain)
        if least_gain <= LEAST_GAIN:
            count = count or self._retry(offers[0][0], prices[1], min(slack))
        self._passed_over = 0 if count else self._passed_over + (offers[0][0] >= RETRY_CHANCE)
        for _, row in offers[:count]:
            drafts[decoding[row]] = drafts.get(decoding[row], 0) + 1
        self._price = prices[count]
        return drafts

    def _retry(self, chance: float, price: float, slack: float) -> int:
        """One draft now and then, where none seems to pay off: else a price that was disturbed when it was learned would stay,
        for only steps with drafts in them correct it."""
        return int(self._passed_over >= RETRY_AFTER and chance >= RETRY_CHANCE and slack >= price - 1)

    def _most_gain(self, rows: int) -> float:
        """Of so many texts, if all drafts were right: where that is too little, nobody has to look for any."""
        most = min(rows * self._most_drafts, MOST_DRAFTS_A_STEP)
        return float(((rows + np.arange(most + 1)) / rows / np.array(self._prices(rows, most))).max())

    def _prices(self, rows: int, most: int) -> list[float]:
        """How much longer a step of so many rows takes with 0, 1, 2 … drafts in it."""
        seconds = self._costs.of(np.arange(rows, rows + most + 1))
        return (seconds / seconds[0]).tolist()


def _best_count(offers: list[tuple[float, int]], prices: list[float], slack: list[float], least_gain: float) -> int:
    """How many of the offers, each a chance and its row, give the most tokens a second without taking any row's ``slack``."""
    best, best_gain = 0, least_gain
    tokens = float(len(slack))
    for count, (chance, row) in enumerate(offers, 1):
        tokens += chance
        slack[row] += chance
        gain = tokens / len(slack) / prices[count]
        if gain > best_gain and min(slack) >= prices[count] - 1:
            best, best_gain = count, gain
    return best


def _slack(sequence: Sequence) -> float:
    """Tokens by which a text may fall behind in one step."""
    return sequence.credit + LOSS_AT_FIRST + LOSS_A_TOKEN * sequence.generated_tokens
