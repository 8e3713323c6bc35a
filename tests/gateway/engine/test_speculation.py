"""Which drafts go into a step: the gain of the whole step counts, and no text falls behind for another's sake."""

import numpy as np
import pytest

from backends.onnx_decoder.contract.limits import JOINED_TOKENS, MORE_POSITIONS
from gateway.engine.speculation import (
    LEAST_GAIN,
    LOSS_A_TOKEN,
    LOSS_AT_FIRST,
    MOST_DRAFTS_A_STEP,
    Speculation,
)
from gateway.engine.step import StepRow
from gateway.engine.step_costs import StepCosts
from tests.gateway.engines import lengths_answer

MOST_DRAFTS = JOINED_TOKENS - 1  # of a row
FLAT = [0.01] * 300  # a device that computes a token or hundreds in the same time
TWO_CORES = [0.006 + 0.0026 * tokens for tokens in range(300)]  # int8, AVX2: each token costs


class Text:
    """What a plan knows of one."""

    def __init__(self, chances: list[float], credit: float = 0.0, generated_tokens: int = 100) -> None:
        self.chances, self.credit, self.generated_tokens = chances, credit, generated_tokens

    def draft_chances(self, most: int) -> list[float]:
        return self.chances[:most]


def plan(seconds: list[float], *texts: Text) -> list[int]:
    """How many tokens each text drafts on a machine whose steps take these seconds, by their tokens."""
    return step(Speculation(costs(seconds, max(32, len(texts)))), *texts)


def costs(seconds: list[float], rows: int) -> StepCosts:
    """As learned from a step of every number of tokens that so many rows may have."""
    learned = StepCosts(rows, 256)
    for tokens in range(1, rows * (1 + MOST_DRAFTS) + 1):
        learned.note(tokens, seconds[tokens])
    return learned


def step(speculation: Speculation, *texts: Text) -> list[int]:
    """Plans a step and takes it: how many tokens each text drafts."""
    drafts = speculation.plan(list(texts))  # type: ignore[arg-type]
    counts = [drafts.get(text, 0) for text in texts]  # type: ignore[call-overload]
    rows = [
        (text, StepRow(1, 9, np.zeros(1 + count, np.int32), 8, 1 + count, drafts=count))
        for text, count in zip(texts, counts, strict=True)
    ]
    speculation.note_step(rows, lengths_answer([10] * len(texts), [9] * len(texts)))  # type: ignore[arg-type]
    return counts


def falling(chance: float) -> list[float]:
    return [chance**ahead for ahead in range(1, MOST_DRAFTS + 1)]


def test_where_steps_cost_the_same_every_probable_draft_is_taken() -> None:
    assert plan(FLAT, Text(falling(0.99)), Text(falling(0.5)), Text([])) == [7, 3, 0]


def test_no_more_is_drafted_than_pays_off() -> None:
    sure, likely, unlikely = (plan(TWO_CORES, Text(falling(chance)))[0] for chance in (0.99, 0.7, 0.2))
    assert sure == MOST_DRAFTS and 0 < likely < sure and unlikely == 0


def test_in_a_crowd_a_draft_must_be_more_probable() -> None:
    assert plan(TWO_CORES, Text(falling(0.6)))[0] > 0
    assert plan(TWO_CORES, *[Text(falling(0.6)) for _ in range(8)]) == [0] * 8
    assert min(plan(TWO_CORES, *[Text(falling(0.99)) for _ in range(8)])) > 0


@pytest.mark.slow
def test_a_text_that_drafts_nothing_does_not_pay_for_its_neighbours() -> None:
    others = [Text(falling(0.99)) for _ in range(7)]
    assert sum(plan(TWO_CORES, *others, Text([], credit=-LOSS_AT_FIRST, generated_tokens=0))) == 0
    assert sum(plan(TWO_CORES, *others, Text([], credit=5.0))) > 0  # what it has gained before it may give back
    quiet = Text([], generated_tokens=0)
    for _ in range(300):
        plan(TWO_CORES, *others, quiet)
        quiet.generated_tokens += 1
        assert quiet.credit >= -LOSS_AT_FIRST - LOSS_A_TOKEN * quiet.generated_tokens


def test_a_text_whose_drafts_failed_waits_until_it_has_tokens_to_lose() -> None:
    def drafts(generated: int) -> int:
        return plan(TWO_CORES, Text([0.45], credit=-1.5, generated_tokens=generated))[0]

    assert drafts(20) == 0 and drafts(200) == 1


def test_no_text_loses_more_than_its_part_whatever_the_guesses_are_worth() -> None:
    """Chances that are promised and never kept: the worst that can be drafted."""
    speculation = Speculation(costs(TWO_CORES, 1))
    text = Text(falling(0.6), generated_tokens=0)
    lost, tried = 0.0, 0
    for _ in range(1000):
        before = text.credit
        tried += step(speculation, text)[0] > 0
        lost += before - text.credit
        text.generated_tokens += 1
        # In a step it may lose what it hoped to win, once; then only what its length allows.
        assert lost <= LOSS_AT_FIRST + LOSS_A_TOKEN * text.generated_tokens + sum(text.chances)
    assert 1 < tried < 100 and lost < 0.03 * 1000


def test_credit_is_charged_what_the_step_takes_longer() -> None:
    text, other = Text(falling(0.95)), Text(falling(0.95))
    count = sum(plan(TWO_CORES, text, other))
    assert text.credit == other.credit == pytest.approx(1 - TWO_CORES[2 + count] / TWO_CORES[2], rel=0.05)


def test_a_step_that_fails_costs_no_credit_however_often_it_is_planned() -> None:
    speculation, text = Speculation(costs(TWO_CORES, 1)), Text(falling(0.95))
    for _ in range(300):
        assert speculation.plan([text])  # type: ignore[list-item]
    assert text.credit == 0


def test_nothing_is_drafted_before_a_step_was_measured_or_for_a_gain_that_errors_may_hide() -> None:
    assert not Speculation(StepCosts(8, 256)).plan([Text(falling(0.99))])  # type: ignore[list-item]
    assert plan([0.1] + [1.0] + [1.2] * 300, Text([1.2 * LEAST_GAIN - 1.1])) == [0]
    assert plan([0.1] + [1.0] + [1.2] * 300, Text([1.2 * LEAST_GAIN - 0.85])) == [1]


def test_a_price_that_was_disturbed_when_it_was_learned_does_not_end_the_drafts() -> None:
    """Two texts, whose first step with a draft took ten times as long as it does: so do a shape's first run, a busy machine."""
    learned = StepCosts(2, 256)
    for _ in range(20):
        learned.note(2, TWO_CORES[2])
    learned.note(3, 10 * TWO_CORES[3])
    speculation, texts = Speculation(learned), [Text(falling(0.95)), Text(falling(0.9))]
    assert step(speculation, *texts) == [0, 0]
    drafts = []
    for _ in range(400):
        drafts.append(sum(step(speculation, *texts)))
        learned.note(2 + drafts[-1], TWO_CORES[2 + drafts[-1]])
        for text in texts:
            text.generated_tokens, text.credit = text.generated_tokens + 1, text.credit + drafts[-1] / 2
    assert min(drafts[-100:]) > 3


def test_a_draft_that_never_pays_off_is_tried_seldom() -> None:
    dear = [0.01 * tokens for tokens in range(300)]
    speculation, text = Speculation(costs(dear, 1)), Text(falling(0.6))
    assert 0 < sum(step(speculation, text)[0] for _ in range(660)) <= 20


def test_a_prompt_in_slices_does_not_pay_for_its_neighbours_drafts() -> None:
    speculation, text, prompt = Speculation(costs(TWO_CORES, 2)), Text(falling(0.99)), Text([])
    assert speculation.plan([text])  # type: ignore[list-item]
    rows = [(text, StepRow(1, 9, np.zeros(8, np.int32), 8, 8, drafts=7)), (prompt, StepRow(2, 9, np.zeros(500, np.int32), 4))]
    speculation.note_step(rows, lengths_answer([17, 13], [9, 9]))  # type: ignore[arg-type]
    assert text.credit < 0 == prompt.credit


def test_however_many_texts_repeat_themselves_triton_is_asked_for_no_more_than_it_gives() -> None:
    assert sum(plan(FLAT * 8, *[Text(falling(0.99)) for _ in range(200)])) <= MOST_DRAFTS_A_STEP <= MORE_POSITIONS // 2
