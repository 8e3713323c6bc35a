"""Running ahead gives what steps of one token give, and stops where it must."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.onnx_decoder.contract.drawing import DrawingRule, Rules, sample, uniforms
from backends.onnx_decoder.contract.limits import MOST_RUN_AHEAD, NO_SLOT, UNKNOWN
from backends.onnx_decoder.contract.step import StepAnswer, StepRow, encode_step
from backends.onnx_decoder.stepper import Stepper
from tests.backend.in_process import Backend
from tests.conftest import TINY, version_directory
from tests.logits import assert_same

CONTEXT, SLOTS = 256, 8
GREEDY = DrawingRule(0.0, 0, 1.0, 0.0, 0)
RULES = [
    GREEDY,
    DrawingRule(0.8, 40, 1.0, 0.0, 7),
    DrawingRule(1.0, 64, 0.9, 0.0, 2**64 - 1),
    DrawingRule(1.5, 20, 1.0, 0.05, 9),
    DrawingRule(2.0, 64, 1.0, 0.0, 1),
]


@pytest.fixture(scope="module")
def loaded(model_repository: Path) -> Backend:
    return Backend(version_directory(model_repository, TINY) / "model.onnx", SLOTS, CONTEXT, threads=2)


@pytest.fixture
def backend(loaded: Backend) -> Iterator[Backend]:
    yield loaded
    loaded.end_tokens = []
    loaded.forget()


def prompt(number: int, length: int = 20) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 50257, length).astype(np.int32)


def row(sequence_id: int, past: int, tokens: np.ndarray, ahead: int = 0, rule: DrawingRule = GREEDY) -> StepRow:
    return StepRow(sequence_id, past, tokens, 4096, run_ahead=ahead, rule=rule)


def chosen(answer: StepAnswer, position: int, rule: DrawingRule, length: int) -> np.ndarray:
    """The token that a gateway draws from a position of an answer, behind ``length`` tokens: int32 [1]."""
    ids, logits = answer.candidate_id[position : position + 1], answer.candidate_logit[position : position + 1]
    return sample(ids, logits, Rules.of([rule]), uniforms(np.array([rule.seed], np.uint64), np.array([length])))


def one_by_one(backend: Backend, tokens: np.ndarray, rule: DrawingRule, count: int) -> tuple[list[int], np.ndarray]:
    """The next tokens of a sequence from steps of one, and the candidates' logits at each of their positions and one more."""
    written, logits = tokens, []
    answer = backend.step(row(100, 0, tokens))
    for _ in range(count):
        logits.append(answer.candidate_logit[0])
        token = chosen(answer, 0, rule, len(written))
        answer = backend.step(row(100, len(written), token))
        written = np.append(written, token)
    backend.step(release=[100])
    return written[len(tokens) :].tolist(), np.array([*logits, answer.candidate_logit[0]])


def test_a_crowd_that_runs_ahead_draws_what_each_draws_alone_step_by_step(backend: Backend) -> None:
    """Rows of every rule and of unlike depths, in a pool with idle slots, beside rows that do not run ahead."""
    depths = [12, 3, 9, 12, 1]
    expected = [one_by_one(backend, prompt(n), rule, depth) for n, (rule, depth) in enumerate(zip(RULES, depths, strict=True))]
    backend.forget()
    backend.step(row(90, 0, prompt(90)), row(91, 0, prompt(91)), row(92, 0, prompt(92)), release=[91])
    rows = [row(n, 0, prompt(n), depth, rule) for n, (rule, depth) in enumerate(zip(RULES, depths, strict=True))]
    answer = backend.step(row(92, 20, prompt(5, 1)), *rows[::-1], row(90, 20, prompt(6, 4)))
    assert answer.drawn_count.tolist() == [0, *depths[::-1], 0]
    assert answer.cached_length.tolist() == [21, *(20 + depth for depth in depths[::-1]), 24]
    parts = np.split(answer.candidate_logit, np.cumsum([1, *(1 + depth for depth in depths[::-1])]))
    drawn = np.split(answer.drawn, np.cumsum(depths[::-1]))
    for (tokens, logits), got, part in zip(expected[::-1], drawn, parts[1:], strict=False):
        assert got.tolist() == tokens
        assert_same(part, logits)


def test_a_sequence_goes_on_from_what_it_has_drawn(backend: Backend) -> None:
    """Depth after depth, and a step of one between."""
    rule = RULES[1]
    expected, _ = one_by_one(backend, prompt(1), rule, 30)
    written, cached = list(prompt(1)), 0
    for depth in (5, 0, 8, 1, 9):
        answer = backend.step(row(1, cached, np.array(written[cached:], np.int32), depth, rule))
        (cached,) = answer.cached_length.tolist()
        written += answer.drawn.tolist()
        written += chosen(answer, len(answer.candidate_id) - 1, rule, len(written)).tolist()
    assert written[20:] == expected[: len(written) - 20] and len(written) == 20 + 5 + 0 + 8 + 1 + 9 + 5


def test_an_end_token_is_not_computed_unless_the_row_ignores_it(backend: Backend) -> None:
    expected, _ = one_by_one(backend, prompt(3), RULES[1], 12)
    end = expected[6]
    place = expected.index(end)
    backend.end_tokens = [end]
    backend.forget()
    ahead = row(1, 0, prompt(3), 12, RULES[1])
    answer = backend.step(ahead, replace(ahead, sequence_id=2, ignore_end=True))
    assert answer.drawn_count.tolist() == [place, 12] and answer.cached_length.tolist() == [20 + place, 32]
    assert answer.drawn.tolist() == expected[:place] + expected
    assert chosen(answer, place, RULES[1], 20 + place).tolist() == [end]  # the gateway's to draw


def test_a_chunk_that_does_not_reach_its_rows_end_does_not_run_ahead(backend: Backend) -> None:
    chunk = replace(row(1, 0, prompt(4), 5), token_limit=12)
    answer = backend.step(chunk, row(2, 0, prompt(5), 2))
    assert answer.cached_length.tolist() == [12, 22] and answer.drawn_count.tolist() == [0, 2]
    assert len(answer.candidate_id) == 3
    answer = backend.step(replace(chunk, past_length=12, tokens=prompt(4)[12:]))
    assert answer.drawn.tolist() == one_by_one(backend, prompt(4), GREEDY, 5)[0]


def test_rows_that_are_refused_draw_nothing(backend: Backend) -> None:
    for sequence in range(10, 10 + SLOTS - 1):
        backend.step(row(sequence, 0, prompt(sequence)))
    answer = backend.step(row(50, 7, prompt(1), 3), row(1, 0, prompt(1), 4), row(2, 0, prompt(2), 3))
    assert answer.cached_length.tolist() == [UNKNOWN, 24, NO_SLOT]
    assert answer.drawn_count.tolist() == [0, 4, 0] and len(answer.candidate_id) == 5


def test_the_context_can_be_filled_to_its_end(backend: Backend) -> None:
    whole = prompt(6, CONTEXT - MOST_RUN_AHEAD)
    answer = backend.step(row(1, 0, whole, MOST_RUN_AHEAD))
    assert answer.cached_length.tolist() == [CONTEXT]
    written = np.append(whole, answer.drawn)
    assert_same(backend.step(row(2, 0, written)).candidate_logit, answer.candidate_logit[-1:])


def test_the_same_step_again_gives_the_same_answer(backend: Backend) -> None:
    backend.step(row(1, 0, prompt(7)))
    step = row(1, 20, prompt(8, 1), 6, RULES[2])
    first, second = (backend.step(step) for _ in range(2))
    assert first.drawn.tolist() == second.drawn.tolist() and first.cached_length.tolist() == second.cached_length.tolist()
    assert_same(first.candidate_logit, second.candidate_logit)


def test_what_was_drawn_is_rolled_back_like_drafts_and_reused_as_a_prefix(backend: Backend) -> None:
    answer = backend.step(row(1, 0, prompt(9), 30))
    whole = np.concatenate([prompt(9), answer.drawn])
    other = backend.step(row(2, 0, np.append(whole, prompt(1, 3))))
    assert other.reused_length.tolist() == [50]
    rolled_back = backend.step(row(1, 25, whole[25:27]))
    assert rolled_back.cached_length.tolist() == [27]
    assert_same(rolled_back.candidate_logit, answer.candidate_logit[7:8])
    assert backend.step(row(3, 0, whole)).reused_length.tolist() == [49]  # of sequence 2


class Clock:
    """A second a reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(("seconds", "drawn"), [(0, 0), (3, 0), (4, 1), (6, 1), (7, 2), (9, 2), (10, 3), (1000, 9)])
def test_no_pass_begins_that_would_end_behind_the_time_budget(backend: Backend, seconds: int, drawn: int) -> None:
    """By the time of the pass before. Each pass takes a second here, and the time is read once more between two."""
    backend.stepper = Stepper(backend.pool, backend.decoder, clock=Clock())
    answer = backend.step(row(1, 0, prompt(1), 9), time_budget=seconds * 10**6)
    assert answer.drawn_count.tolist() == [drawn]
    assert answer.compute_seconds >= 3 + 3 * drawn


def test_the_request_that_wants_its_answer_first_bounds_all_that_are_merged(backend: Backend) -> None:
    def merged(*requests: tuple[list[StepRow], list[int], int | None]) -> list[StepAnswer]:
        backend.forget()
        return backend.answer([backend.read(encode_step(rows, release, "0", budget)) for rows, release, budget in requests])

    deep, mixed = [row(1, 0, prompt(1), 9)], [row(2, 0, prompt(2), 4), row(3, 0, prompt(3))]
    expected = one_by_one(backend, prompt(1), GREEDY, 4)[0]
    first, second = merged((deep, [], None), (mixed, [], None))
    assert first.drawn.tolist() == expected
    assert (second.cached_length.tolist(), second.drawn_count.tolist()) == ([24, 20], [4, 0])
    assert second.candidate_logit.shape == (6, 64) and first.candidate_logit.shape == (5, 64)
    first, second = merged((deep, [], None), ([row(3, 0, prompt(3))], [], None))
    assert len(first.drawn) == len(second.drawn) == 0
    first, second = merged((deep, [], None), ([], [77], None))  # nobody waits for the answer to a release
    assert len(first.drawn) == 9
    first, second = merged((deep, [], 10**9), (mixed, [], 0))
    assert len(first.drawn) == len(second.drawn) == 0


def test_a_retry_that_is_merged_with_its_step_is_computed_behind_it(backend: Backend) -> None:
    step = encode_step([row(1, 0, prompt(1), 5, RULES[1]), row(2, 0, prompt(2), 2)], [], "0")
    first, other, retry = backend.answer(
        [backend.read(one) for one in (step, encode_step([row(3, 0, prompt(3), 5)], [], "0"), step)]
    )
    assert first.drawn.tolist()[2:] != [] and first.drawn_count.tolist() == [5, 2] and other.drawn_count.tolist() == [5]
    assert retry.drawn.tolist() == first.drawn.tolist()
    assert retry.reused_length.tolist() == [19, 19]
    assert_same(retry.candidate_logit, first.candidate_logit)


def test_a_release_that_is_merged_with_its_sequences_step_comes_behind_it(backend: Backend) -> None:
    """Its gateway has given the step up, and says so before it is computed."""
    steps = [encode_step([row(1, 0, prompt(1))], [], "0"), encode_step([], [1], "0")]
    backend.answer([backend.read(step) for step in steps])
    assert backend.pool.used == 0


def test_a_step_of_nothing_computes_a_token_and_changes_nothing(backend: Backend) -> None:
    for sequence in range(SLOTS):
        backend.step(row(sequence, 0, prompt(sequence)))
    before = backend.pool.lengths.copy()
    passes: list[int] = []
    forward = backend.decoder.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.decoder, "forward", lambda batch: passes.append(len(batch.tokens)) or forward(batch))
        answer = backend.step()
        backend.step(release=[99])
    assert passes == [1] and not len(answer.cached_length) and (backend.pool.lengths == before).all()
    expected = [backend.step(row(sequence, 20, prompt(9)[:4])) for sequence in range(SLOTS)]
    backend.forget()
    for sequence in range(SLOTS):
        backend.step(row(sequence, 0, prompt(sequence)))
        answer = backend.step(row(sequence, 20, prompt(9)[:4]))
        assert (answer.candidate_logit == expected[sequence].candidate_logit).all()
