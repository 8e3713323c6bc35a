"""Getting more than one token per sequence from a step: drafted here or drawn ahead by the backend, whichever gives more.

A run-ahead is a draft by the best possible drafter, the model itself: the backend draws a sequence's next token with the rule
that the gateway would use, computes it, and so on. All tokens come in one answer, and the gateway draws each of them again.
"""

from dataclasses import dataclass, field

from gateway.engine.sequence import Sequence
from gateway.engine.speculation import LEAST_GAIN, Speculation
from gateway.engine.step_costs import StepCosts
from gateway.text.model import Model

# How much longer, as a fraction of a step, work that cannot run ahead may wait for sequences that do:
MOST_HINDRANCE = 0.25  # sequences whose next token is not drawn in the backend
MOST_HINDRANCE_OF_PROMPTS = 1.0  # only if the gain in tokens per second is at least WORTH_IT
WORTH_IT = 1.5


@dataclass(frozen=True)
class Ahead:
    """The lookahead of one step. Sequences that get none are left out."""

    drafts: dict[Sequence, int] = field(default_factory=dict)  # tokens
    run_ahead: dict[Sequence, int] = field(default_factory=dict)  # tokens at most
    time_budget: float | None = None  # seconds in the backend after which it draws nothing more


class Lookahead:
    """Plans one replica's lookahead. ``latency_budget``: seconds that a step with run-ahead may take; 0: no run-ahead."""

    def __init__(self, costs: StepCosts, model: Model, latency_budget: float) -> None:
        self._costs, self._latency_budget = costs, latency_budget
        self._most_run_ahead = model.most_run_ahead
        self.speculation = Speculation(costs, model.joined_tokens)

    def plan(self, decoding: list[Sequence], *, prompts_wait: bool) -> Ahead:
        """Plans a step in which all of ``decoding`` take part."""
        ahead, gain = self._run_ahead(decoding, prompts_wait)
        drafts = self.speculation.plan(decoding, max(LEAST_GAIN, gain))
        return Ahead(drafts) if drafts else ahead

    def _run_ahead(self, decoding: list[Sequence], prompts_wait: bool) -> tuple[Ahead, float]:
        """The run-ahead, and its tokens per second relative to a step with one token per sequence."""
        depths = {
            sequence: min(sequence.most_run_ahead, self._most_run_ahead)
            for sequence in decoding
            if self._latency_budget and sequence.most_run_ahead
        }
        if not depths or not self._costs.known:
            return Ahead(), 1.0
        rows, budget = len(decoding), self._latency_budget
        step = self._costs.seconds(rows)
        a_pass = step * self._costs.pass_share
        hindrance = [MOST_HINDRANCE] * (len(depths) < rows) + [MOST_HINDRANCE_OF_PROMPTS] * prompts_wait
        if hindrance:
            budget = min(budget, a_pass + min(hindrance) * step)
        passes = max(1, min(1 + max(depths.values()), int(budget / a_pass)))
        tokens = rows + sum(min(depth, passes - 1) for depth in depths.values())
        gain = tokens / rows * step / (step + (passes - 1) * a_pass)
        if prompts_wait and gain < WORTH_IT:
            return Ahead(), 1.0
        return Ahead(run_ahead=depths, time_budget=budget), gain
