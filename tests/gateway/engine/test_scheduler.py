"""Who takes part in a step, and how the prompts' tokens are shared."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from backends.onnx_decoder.contract.limits import MORE_POSITIONS
from gateway.engine.lookahead import Ahead
from gateway.engine.scheduler import next_batch
from gateway.engine.sequence import SCORED_AT_ONCE


@dataclass(eq=False)
class Text:
    """What the scheduler knows of a sequence; a row of it is its limit."""

    num_uncomputed_tokens: int
    cached: int = 0
    prompt: list[int] = field(default_factory=list)
    scoring: bool = False
    generated_tokens: int = 0

    @property
    def request(self) -> Any:
        return SimpleNamespace(prompt_tokens=self.prompt)

    @property
    def length(self) -> int:
        return self.cached + self.num_uncomputed_tokens

    def row(self, token_limit: int, drafts: int = 0, run_ahead: int = 0) -> int:
        return token_limit


class Planned:
    """A lookahead whose plan is given."""

    def __init__(self, ahead: Ahead = Ahead()) -> None:  # noqa: B008
        self.ahead = ahead
        self.prompts_wait: list[bool] = []

    def plan(self, decoding: list[Text], *, prompts_wait: bool) -> Ahead:
        self.prompts_wait.append(prompts_wait)
        return self.ahead


def limits(budget: int, *texts: Text) -> list[int | None]:
    """Each text's limit in the next step; None: it takes no part."""
    rows: dict[Any, Any] = dict(next_batch(list(texts), Planned(), lambda *_: budget)[0])  # type: ignore[arg-type]
    return [rows.get(text) for text in texts]


def test_one_prompt_has_the_whole_budget_and_every_text_that_decodes_its_token() -> None:
    assert limits(8, Text(1, cached=9), Text(500), Text(1, cached=5)) == [1, 8, 1]


def test_a_short_prompt_does_not_wait_for_a_long_one_and_the_long_one_goes_on() -> None:
    assert limits(8, Text(5000), Text(3), Text(400)) == [4, 4, 1]


def test_the_oldest_comes_to_its_end_however_many_short_ones_arrive() -> None:
    oldest, steps = Text(100), 0
    while oldest.num_uncomputed_tokens > 1:
        (limit, *_) = limits(8, oldest, *(Text(4) for _ in range(10)))
        assert limit
        oldest.num_uncomputed_tokens -= limit
        oldest.cached, steps = oldest.cached + limit, steps + 1
    assert steps <= 25


def test_prompts_that_fit_are_all_computed_in_one_step() -> None:
    assert all(limits(256, *(Text(20) for _ in range(12))))


def test_what_the_others_leave_is_the_oldests() -> None:
    assert limits(100, Text(500), Text(10)) == [90, 50]


def test_a_budget_of_one_token_is_the_oldests() -> None:
    assert limits(1, Text(500), Text(10)) == [1, None]


def test_choices_of_one_request_wait_for_their_first() -> None:
    prompt = [1, 2, 3]
    assert limits(8, Text(400, prompt=prompt), Text(400, prompt=prompt)) == [8, None]
    assert limits(8, Text(1, cached=399, prompt=prompt), Text(400, prompt=prompt), Text(400, prompt=prompt)) == [1, 4, 7]


def test_scored_prompts_of_one_request_ask_for_no_more_positions_than_triton_gives() -> None:
    prompt = [1, 2, 3]
    leader = Text(1, cached=99, prompt=prompt)
    followers = [Text(100, prompt=prompt, scoring=True) for _ in range(31)]
    asked = [limit for limit in limits(1000, leader, *followers)[1:] if limit]
    assert 0 < sum(min(SCORED_AT_ONCE, limit) for limit in asked) <= MORE_POSITIONS // 2
    assert len([limit for limit in limits(60, leader, *followers)[1:] if limit]) <= 2


def test_a_choice_that_has_lost_its_cache_counts_with_what_it_has_written() -> None:
    prompt = [1, 2, 3]
    written = [Text(400, prompt=prompt, generated_tokens=300) for _ in range(8)]
    assert len([limit for limit in limits(60, Text(1, cached=99, prompt=prompt), *written)[1:] if limit]) == 2


def test_the_budget_goes_by_what_decodes_with_its_drafts_and_by_the_prompts_that_wait() -> None:
    asked: list[tuple[int, int]] = []

    def budget(decoded: int, waiting: int) -> int:
        asked.append((decoded, waiting))
        return 4

    one, two = Text(1, cached=9), Text(1, cached=9)
    lookahead = Planned(Ahead(drafts={one: 3}))  # type: ignore[dict-item]
    next_batch([one, two, Text(50)], lookahead, budget)  # type: ignore[list-item, arg-type]
    assert asked == [(5, 1)] and lookahead.prompts_wait == [True]
