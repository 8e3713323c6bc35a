"""How many drafts pay off in a step: for the step as a whole, and so that no text in it falls behind.

Every draft makes a step longer for all its texts. So the whole step is weighed: the tokens that it will probably give by the
seconds that it will probably take, against those of the same step without drafts. And each text has a credit: it rises by a
token with each draft that was right, and falls by what each step took longer than without drafts. Nothing is drafted that would
probably make any text's credit less than a small part of its tokens: so no stream becomes slower by more than that.
"""

import numpy as np

from gateway.sequence import Sequence
from gateway.step import StepAnswer, StepRow

MOST_DRAFTS = 7  # of a row: with the token before them as many as Triton computes together with other rows
LEAST_CHANCE = 0.1  # a draft that is less probable is not worth the thought
LEAST_GAIN = 1.03  # tokens a second, against none drafted: what is estimated has errors
LOSS_AT_FIRST, LOSS_A_TOKEN = 0.5, 0.02  # tokens by which a text may fall behind
MOST_CREDIT = 8.0  # tokens: what was gained long ago is no reason to be slow now

DRIFT = 0.2  # how much of a step's deviation is taken for the machine's: its load, the length of the texts
LEAST_LEARNING = 0.05  # how much of the rest for that of the step's size
DEVIATION = 2.0  # a step that took longer than this many times what was expected was disturbed


class StepCosts:
    """Seconds of a step that only decodes, by the number of its tokens: measured, interpolated between, never falling."""

    def __init__(self, most_tokens: int) -> None:
        self._seconds = np.zeros(most_tokens + 1)
        self._visits = np.zeros(most_tokens + 1, np.int64)

    def note(self, tokens: int, seconds: float) -> None:
        """A step's deviation from what was expected is partly the machine's own, and scales all sizes: so sizes that were
        measured at different times can be compared."""
        if not self._visits.any():
            self._seconds[tokens] = seconds
        else:
            expected = float(self.of(np.array([tokens]))[0])
            deviation = float(np.clip(seconds / expected, 1 / DEVIATION, DEVIATION))
            if not self._visits[tokens]:
                self._seconds[tokens] = expected
            self._seconds *= deviation**DRIFT
            self._seconds[tokens] *= deviation ** max(LEAST_LEARNING, 0.5 / (self._visits[tokens] + 1))
        self._visits[tokens] += 1

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """Of steps of so many ``tokens``. None may be asked before one was noted."""
        known = np.flatnonzero(self._visits)
        seconds = np.maximum.accumulate(self._seconds[known])
        first, last = known[0], known[-1]
        # Beyond the largest, on as from the smallest to it; where there is but one, a guess that the first try corrects.
        slope = (seconds[-1] - seconds[0]) / (last - first) if last > first else seconds[-1] / (4 * last)
        return np.asarray(np.interp(tokens, known, seconds) + np.maximum(tokens - last, 0) * slope)

    @property
    def known(self) -> bool:
        return bool(self._visits.any())


class Speculation:
    """Of one lane: what its steps cost, and which drafts go into the next one."""

    def __init__(self, slots: int) -> None:
        self._price = 1.0  # how many times longer the drafts make the step that was planned last
        self.costs = StepCosts(slots * (1 + MOST_DRAFTS))

    def note_step(self, batch: list[tuple[Sequence, StepRow]], answer: StepAnswer, seconds: float) -> None:
        """What the step took that was planned last, with all that the gateway did for it; books on every text's credit what it
        took longer for drafts. Of steps with prefills, whole logits or grammars the time tells nothing here."""
        for sequence, _ in batch if self._price > 1 else ():
            sequence.credit = min(MOST_CREDIT, sequence.credit) - (self._price - 1)
        tokens = sum(len(row.tokens) for _, row in batch)
        if batch and tokens == len(answer.candidate_id) and (answer.cached_length > 0).all() and not answer.logits.size:
            self.costs.note(tokens, seconds)

    def plan(self, decoding: list[Sequence]) -> dict[Sequence, int]:
        """How many tokens each text drafts in the next step, in which all of ``decoding`` take part; texts that draft none are
        left out."""
        self._price = 1.0
        offers = [
            (chance, row)
            for row, sequence in enumerate(decoding)
            for chance in sequence.draft_chances(MOST_DRAFTS)
            if chance >= LEAST_CHANCE
        ]
        if not offers or not self.costs.known:
            return {}
        offers.sort(reverse=True)  # so each text's first guess comes before its second
        prices = self._prices(len(decoding), len(offers))
        drafts: dict[Sequence, int] = {}
        count = _best_count(offers, prices, [_slack(sequence) for sequence in decoding])
        for _, row in offers[:count]:
            drafts[decoding[row]] = drafts.get(decoding[row], 0) + 1
        self._price = prices[count]
        return drafts

    def _prices(self, rows: int, most: int) -> list[float]:
        """How much longer a step of so many rows takes with 0, 1, 2 … drafts in it."""
        seconds = self.costs.of(np.arange(rows, rows + most + 1))
        return (seconds / seconds[0]).tolist()


def _best_count(offers: list[tuple[float, int]], prices: list[float], slack: list[float]) -> int:
    """How many of the offers, each a chance and its row, give the most tokens a second without taking any row's ``slack``."""
    best, best_gain = 0, LEAST_GAIN
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
