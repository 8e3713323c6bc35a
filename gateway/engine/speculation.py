"""How many drafts pay off in a step, without slowing down any single sequence.

Every draft makes a step longer for all its sequences. So the step is weighed as a whole: its expected tokens per second, with
and without drafts. Each sequence also has a credit: every accepted draft adds one token, and every step subtracts the time it
took longer because of drafts. A sequence may fall behind by a small fraction of its tokens; drafts that would probably take any
sequence's credit below that are not made. So no stream slows down by more than that.
"""

import numpy as np

from backends.onnx_decoder.contract.limits import JOINED_TOKENS, MORE_POSITIONS
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepAnswer, StepRow
from gateway.engine.step_costs import StepCosts

MOST_DRAFTS_A_STEP = MORE_POSITIONS // 2  # the other half is for prompts that are scored
LEAST_CHANCE = 0.1  # less probable drafts are not considered
LEAST_GAIN = 1.03  # tokens per second relative to a step without drafts; above 1 because estimates have errors
LOSS_AT_FIRST, LOSS_A_TOKEN = 0.5, 0.02  # tokens by which a sequence may fall behind: a constant, and per generated token
RETRY_AFTER, RETRY_CHANCE = 32, 0.5  # after this many steps that passed over a draft this probable, one is tried
MOST_CREDIT = 8.0  # tokens; old gains do not justify being slow now


class Speculation:
    """Decides which drafts go into one replica's next step, based on what its steps cost."""

    def __init__(self, costs: StepCosts, joined_tokens: int = JOINED_TOKENS) -> None:
        """``joined_tokens``: how many tokens of a row are computed together with other rows."""
        self._most_drafts = joined_tokens - 1  # per row, after its own token
        self._price = 1.0  # by what factor drafts lengthen the last planned step
        self._passed_over = 0  # steps since the last one with drafts in which a probable draft was too expensive
        self._costs = costs

    def note_step(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer) -> None:
        """Charges the last planned step's extra time for drafts to the credit of every sequence that got a token."""
        for (sequence, row), cached in zip(batch, answer.cached_length.tolist(), strict=True) if self._price > 1 else ():
            if row.decodes and cached > 0:
                sequence.credit = min(MOST_CREDIT, sequence.credit) - (self._price - 1)

    def plan(self, decoding: list[Sequence], least_gain: float = LEAST_GAIN) -> dict[Sequence, int]:
        """How many tokens each sequence drafts in the next step, in which all of ``decoding`` take part. Sequences without
        drafts are left out. ``least_gain``: required tokens per second, relative to a plain step."""
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
        offers.sort(reverse=True)  # chances fall, so each sequence's first draft comes before its second
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
        """Tries one draft now and then even if none seems to pay off. Otherwise a price learned from a disturbed step would
        stay wrong: only steps with drafts correct it."""
        return int(self._passed_over >= RETRY_AFTER and chance >= RETRY_CHANCE and slack >= price - 1)

    def _most_gain(self, rows: int) -> float:
        """The gain for ``rows`` sequences if all drafts were right. If that is too little, none need be looked up."""
        most = min(rows * self._most_drafts, MOST_DRAFTS_A_STEP)
        return float(((rows + np.arange(most + 1)) / rows / np.array(self._prices(rows, most))).max())

    def _prices(self, rows: int, most: int) -> list[float]:
        """By what factor 0, 1, 2 … ``most`` drafts lengthen a step of ``rows`` rows."""
        seconds = self._costs.of(np.arange(rows, rows + most + 1))
        return (seconds / seconds[0]).tolist()


def _best_count(offers: list[tuple[float, int]], prices: list[float], slack: list[float], least_gain: float) -> int:
    """How many of the offers, (chance, row) each, give the most tokens per second without exceeding any row's ``slack``."""
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
    """Tokens by which a sequence may fall behind in one step."""
    return sequence.credit + LOSS_AT_FIRST + LOSS_A_TOKEN * sequence.generated_tokens
