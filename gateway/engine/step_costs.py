"""How long steps take on this machine, learned from every step and used to plan the next one."""

from collections.abc import Iterable

import numpy as np

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from gateway.engine.step import StepAnswer, StepRow

DRIFT = 0.2  # share of a step's deviation attributed to the machine: its load, the length of the sequences
LEAST_LEARNING = 0.05  # least share of the deviation attributed to the step's size
DEVIATION = 2.0  # deviations are capped at this factor: a step that took longer was disturbed

FIRST_BUDGET = 16  # prompt tokens per step while nothing is known
SETTLED_TOKENS = 64  # prefill tokens after which the previous estimate counts half
LEAST_BUDGET = 4  # prompt tokens per step, so that prefills always advance; fewer say nothing about their time
LEAST_TOKEN = 1e-6  # seconds
MOST_STRETCH = 4.0  # longest step, in decode steps of all sequences, when few decode and many prompts wait


class StepCosts:
    """Estimates three things: the seconds of a decode-only step by its number of tokens (measured, interpolated in between,
    never falling), the seconds that each prefill token adds, and the backend pass's share of a step, which is what each token
    of run-ahead adds."""

    def __init__(self, most_rows: int, prefill_chunk: int, joined_tokens: int = JOINED_TOKENS) -> None:
        """``joined_tokens``: rows up to this many tokens are computed together with decoding rows; longer ones share a separate
        pass."""
        self._prefill_chunk, self._joined_tokens = prefill_chunk, joined_tokens
        self._seconds = np.zeros(most_rows * joined_tokens + 1)
        self._visits = np.zeros(len(self._seconds), np.int64)
        self._prefill_token: float | None = None  # seconds; None: not measured yet
        self.pass_share = 1.0  # the backend pass's share of a step without run-ahead

    def note_step(self, rows: Iterable[StepRow], answer: StepAnswer, seconds: float) -> None:
        """Learns from a step. Ignores rows that Triton could not compute, and whole steps that score a prompt."""
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
        """Expected seconds of a step with ``tokens`` decoded tokens. Requires ``known``."""
        return float(self.of(np.array([tokens]))[0])

    def prefill_budget(self, decoded: int, waiting: int) -> int:
        """How many prompt tokens a step may compute beside ``decoded`` others while ``waiting`` prompts wait.

        A whole chunk if nothing decodes. Otherwise as many as keep the step to about two decode steps of all these sequences,
        or up to MOST_STRETCH if more wait than decode: so one decoding sequence does not hold up a crowd."""
        if not decoded:
            return self._prefill_chunk
        if self._prefill_token is None or not self.known:
            return min(self._prefill_chunk, FIRST_BUDGET)
        alone, step, all_of_them = self.of(np.array([1, decoded, decoded + waiting])).tolist()
        seconds = max(2.0, min(waiting / decoded, MOST_STRETCH)) * all_of_them - step
        joined = min(self._joined_tokens, seconds / self._prefill_token)
        # A separate pass costs one token's step before its first token. If that is long, half as much again matters little.
        separate = max(seconds - alone, alone / 2) / self._prefill_token
        return min(self._prefill_chunk, max(LEAST_BUDGET, int(max(joined, separate))))

    def _note_prefills(self, decoded: int, prefills: list[int], seconds: float) -> None:
        """As in `note`, part of a deviation is attributed to the machine. The rest goes to the time per prefill token, weighted
        by the prompts' expected share of the step. Otherwise a slower machine would look like expensive prompts."""
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
        """Learns from a decode-only step. Part of the deviation is attributed to the machine and scales all sizes, so sizes
        measured at different times stay comparable."""
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
        """Expected seconds of steps with these numbers of ``tokens``. Requires ``known``."""
        known = np.flatnonzero(self._visits)
        seconds = np.maximum.accumulate(self._seconds[known])
        first, last = known[0], known[-1]
        # Extrapolate beyond the largest with the overall slope. With a single size, guess; the first try corrects it.
        slope = (seconds[-1] - seconds[0]) / (last - first) if last > first else seconds[-1] / (4 * last)
        return np.asarray(np.interp(tokens, known, seconds) + np.maximum(tokens - last, 0) * slope)

    @property
    def known(self) -> bool:
        return bool(self._visits.any())
