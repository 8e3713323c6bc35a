"""Whether a step's texts draft, run ahead or do neither: by the tokens a second that they get, within the latency budget."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.engine.lookahead import MOST_HINDRANCE, MOST_HINDRANCE_OF_PROMPTS, Ahead, Lookahead
from gateway.engine.step_costs import StepCosts
from tests.gateway.engines import lengths_answer

BUDGET = 0.025  # seconds
MODEL: Any = SimpleNamespace(most_run_ahead=64, joined_tokens=8)
GPU, CPU = (0.0025, 0.0002), (0.003, 0.010)  # seconds of a step: around the pass, and the pass


class Text:
    """What a plan knows of one."""

    generated_tokens, credit = 100, 5.0

    def __init__(self, most_run_ahead: int = 200, chance: float = 0.0) -> None:
        self.most_run_ahead, self.chance = most_run_ahead, chance

    def draft_chances(self, most: int) -> list[float]:
        return [self.chance**ahead for ahead in range(1, most + 1) if self.chance]


def plan(machine: tuple[float, float], *texts: Text, budget: float = BUDGET, prompts_wait: bool = False) -> Ahead:
    return lookahead(machine, len(texts), budget).plan(list(texts), prompts_wait=prompts_wait)  # type: ignore[arg-type]


def lookahead(machine: tuple[float, float], rows: int, budget: float = BUDGET) -> Lookahead:
    """On a machine whose steps were measured, however many tokens are in them."""
    around, a_pass = machine
    costs = StepCosts(rows, 256)
    for decoded in range(1, 8 * rows + 1):
        row: Any = SimpleNamespace(full_logits=False, logit_count=1, decodes=True, tokens=[0] * decoded)
        for _ in range(60):
            costs.note_step([row], lengths_answer([10], [9], seconds=a_pass), around + a_pass)
    return Lookahead(costs, MODEL, budget)


def test_texts_run_ahead_as_far_as_they_and_the_backend_may() -> None:
    long, short, last = Text(), Text(5), Text(0)
    ahead = plan(GPU, long, short)
    assert ahead == Ahead(run_ahead={long: 64, short: 5}, time_budget=BUDGET)  # type: ignore[dict-item]
    assert plan(GPU, last) == Ahead()


def test_nothing_runs_ahead_where_it_is_off_or_before_a_step_was_measured() -> None:
    assert plan(GPU, Text(), budget=0) == Ahead()
    unmeasured = Lookahead(StepCosts(1, 256), MODEL, BUDGET)
    assert unmeasured.plan([Text()], prompts_wait=False) == Ahead()  # type: ignore[list-item]


def test_a_text_that_cannot_run_ahead_waits_little_longer_for_others_that_do() -> None:
    around, a_pass = GPU
    other = Text()
    ahead = plan(GPU, Text(0), other)
    assert list(ahead.run_ahead) == [other]
    assert ahead.time_budget == pytest.approx(a_pass + MOST_HINDRANCE * (around + a_pass), rel=0.2)


def test_prompts_wait_twice_as_long_for_a_run_ahead_that_gives_much_more_and_not_at_all_for_little_more() -> None:
    around, a_pass = GPU
    text, other = Text(), Text(0)
    ahead = plan(GPU, text, prompts_wait=True)
    assert list(ahead.run_ahead) == [text]
    assert ahead.time_budget == pytest.approx(a_pass + MOST_HINDRANCE_OF_PROMPTS * (around + a_pass), rel=0.2)
    hindered = plan(GPU, text, other, prompts_wait=True)
    assert hindered.time_budget == pytest.approx(a_pass + MOST_HINDRANCE * (around + a_pass), rel=0.2)
    assert plan(CPU, text, prompts_wait=True) == Ahead()
    assert plan(CPU, Text(chance=0.9), prompts_wait=True).drafts


def test_drafts_are_taken_where_they_give_more_than_a_run_ahead() -> None:
    """On a device whose pass is little of the step a run-ahead gives more than drafts ever could; on a CPU whose pass is
    nearly all of the step, drafts that are probably right give more, and others do not."""
    assert plan(GPU, Text(chance=0.99)).run_ahead
    sure, unsure = plan(CPU, Text(chance=0.9)), plan(CPU, Text(chance=0.1))
    assert sure.drafts and not sure.run_ahead and sure.time_budget is None
    assert unsure.run_ahead and not unsure.drafts


def test_where_a_pass_is_longer_than_the_budget_drafts_compete_with_plain_steps() -> None:
    assert plan((0.003, 0.040), Text(chance=0.7)).drafts
