"""What steps take on this machine, learned from every one: what is planned into the next one goes by it."""

from collections.abc import Iterable

import numpy as np

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from gateway.engine.step import StepAnswer, StepRow

DRIFT = 0.2  # how much of a step's deviation is taken for the machine's: its load, the length of the texts
LEAST_LEARNING = 0.05  # how much of the rest for that of the step's size
DEVIATION = 2.0  # a step that took longer than this many times what was expected was disturbed

FIRST_BUDGET = 16  # tokens of prompts in a step while nothing is known
SETTLED_TOKENS = 64  # of prefills: after as many, what was known of their time counts half
LEAST_BUDGET = 4  # tokens of prompts in a step: prefills always advance; fewer of them tell nothing of their time
LEAST_TOKEN = 1e-6  # seconds
MOST_STRETCH = 4.0  # times what a decode step of all takes, that one may take where few decode beside a crowd of prompts


class StepCosts:
    """Seconds of a step that only decodes, by the number of its tokens: measured, interpolated between, never falling. The
    seconds that each token of a prefill adds to it. And which part of a step is the backend's pass over its tokens: what a
    step takes longer for each token that its rows run ahead."""

    def __init__(self, most_rows: int, prefill_chunk: int, joined_tokens: int = JOINED_TOKENS) -> None:
        """``joined_tokens``: of a row, that are computed together with those that decode; longer ones share another pass."""
        self._prefill_chunk, self._joined_tokens = prefill_chunk, joined_tokens
        self._seconds = np.zeros(most_rows * joined_tokens + 1)
        self._visits = np.zeros(len(self._seconds), np.int64)
        self._prefill_token: float | None = None  # seconds; None: none was measured
        self.pass_share = 1.0  # the backend's, of the seconds of a step without a run-ahead

    def note_step(self, rows: Iterable[StepRow], answer: StepAnswer, seconds: float) -> None:
        """What a step took. Rows that Triton could not compute took nothing; a step that scores a prompt tells little."""
        decoded, prefills = 0, []
        for row, cached, reused in zip(rows, answer.cached_length.tolist(), answer.reused_length.tolist(), strict=True):
            if row.full_logits and row.logit_count > 1:
                return
            if cached > 0 and row.decodes:
                decoded += len(row.tokens)
            elif cached > 0:
                prefills.append(cached - reused)
        passes = 1 + int(answer.drawn_count.max(initial=0))
        if prefills:
            run_ahead = (passes - 1) * self.seconds(decoded) * self.pass_share if self.known else 0.0
            self._note_prefills(decoded, prefills, max(seconds - run_ahead, seconds / passes))
        elif decoded:
            in_pass = min(answer.compute_seconds, seconds) / passes
            seconds -= in_pass * (passes - 1)  # as it would have been without a run-ahead
            self.pass_share += DRIFT * (in_pass / seconds - self.pass_share)
            self.note(decoded, seconds)

    def seconds(self, tokens: int) -> float:
        """Of a step of so many tokens. May not be asked before one was noted."""
        return float(self.of(np.array([tokens]))[0])

    def prefill_budget(self, decoded: int, waiting: int) -> int:
        """How many tokens of prompts a step may compute beside ``decoded`` others, where so many prompts wait: a whole chunk
        where it decodes nothing; else as many as let it take about as long as two decode steps of all these texts, or more by
        how many times more wait than decode. So one text that decodes does not hold up a crowd."""
        if not decoded:
            return self._prefill_chunk
        if self._prefill_token is None or not self.known:
            return min(self._prefill_chunk, FIRST_BUDGET)
        alone, step, all_of_them = self.of(np.array([1, decoded, decoded + waiting])).tolist()
        seconds = max(2.0, min(waiting / decoded, MOST_STRETCH)) * all_of_them - step
        joined = min(self._joined_tokens, seconds / self._prefill_token)
        # A pass of its own takes as long as one token before its first; where that is much, half as much again is little.
        separate = max(seconds - alone, alone / 2) / self._prefill_token
        return min(self._prefill_chunk, max(LEAST_BUDGET, int(max(joined, separate))))

    def _note_prefills(self, decoded: int, prefills: list[int], seconds: float) -> None:
        """As in `note`, a part of a deviation is taken for the machine's; the rest is learned by the prompts' token, the faster
        the more of the step's time they should have taken. Else a slower machine would seem to be dear prompts."""
        tokens, fixed = sum(prefills), 0.0
        if self.known:
            alone, step = self.of(np.array([1, max(decoded, 1)])).tolist()
            fixed = (alone if max(prefills) > self._joined_tokens else 0.0) + (step if decoded else 0.0)
        if tokens < LEAST_BUDGET:
            return
        if self._prefill_token is None:
            self._prefill_token = max((seconds - fixed) / tokens, LEAST_TOKEN)
            return
        expected = fixed + tokens * self._prefill_token
        drift = float(np.clip(seconds / expected, 1 / DEVIATION, DEVIATION)) ** DRIFT
        self._seconds *= drift
        deviation = max(seconds - fixed * drift, LEAST_TOKEN * tokens) / (tokens * self._prefill_token * drift)
        share = tokens / (tokens + SETTLED_TOKENS) * (1 - fixed / expected)
        self._prefill_token *= drift * float(np.clip(deviation, 1 / DEVIATION, DEVIATION)) ** share

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
