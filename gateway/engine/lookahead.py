"""How a step gives more than one token a text: drafted here, or drawn ahead by the backend; whichever gives more of them.

A run-ahead is a draft by the best possible drafter, the model itself: the backend draws a text's next token with the rule that
the gateway would use, computes it, and so on. All of it comes in one answer, and the gateway draws every token again.
"""

from dataclasses import dataclass, field

from gateway.engine.sequence import Sequence
from gateway.engine.speculation import LEAST_GAIN, Speculation
from gateway.engine.step_costs import StepCosts
from gateway.text.model import Model

# Those that cannot run ahead wait longer for others that do, by this much of a step's time:
MOST_HINDRANCE = 0.25  # texts whose next token is not drawn in the backend
MOST_HINDRANCE_OF_PROMPTS = 1.0  # where it gives WORTH_IT times the tokens a second: much of a step is not its pass
WORTH_IT = 1.5


@dataclass(frozen=True)
class Ahead:
    """Of one step; sequences that get none are left out."""

    drafts: dict[Sequence, int] = field(default_factory=dict)  # tokens
    run_ahead: dict[Sequence, int] = field(default_factory=dict)  # tokens at most
    time_budget: float | None = None  # seconds in the backend, after which nothing more is drawn


class Lookahead:
    """Of one replica. ``latency_budget``: seconds that a step may take for what runs ahead; 0: nothing does."""

    def __init__(self, costs: StepCosts, model: Model, latency_budget: float) -> None:
        self._costs, self._latency_budget = costs, latency_budget
        self._most_run_ahead = model.most_run_ahead
        self.speculation = Speculation(costs, model.joined_tokens)

    def plan(self, decoding: list[Sequence], *, prompts_wait: bool) -> Ahead:
        """For a step in which all of ``decoding`` take part."""
        ahead, gain = self._run_ahead(decoding, prompts_wait)
        drafts = self.speculation.plan(decoding, max(LEAST_GAIN, gain))
        return Ahead(drafts) if drafts else ahead

    def _run_ahead(self, decoding: list[Sequence], prompts_wait: bool) -> tuple[Ahead, float]:
        """And how many times the tokens a second of a step with a token each it gives."""
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
