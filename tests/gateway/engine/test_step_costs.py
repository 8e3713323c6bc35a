"""What steps take, learned from them; and how much of a prompt a step may compute beside texts that decode."""

import numpy as np
import pytest

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from gateway.engine.step import StepRow
from gateway.engine.step_costs import FIRST_BUDGET, LEAST_BUDGET, StepCosts
from tests.gateway.engines import lengths_answer

CHUNK = 256


class Machine:
    """A pass takes ``fixed`` seconds and ``token`` for each of its tokens; prompts of more than 8 share a pass of their own."""

    def __init__(self, fixed: float, token: float) -> None:
        self.fixed, self.token = fixed, token
        self.costs = StepCosts(32, CHUNK)

    def seconds(self, decoded: int, *prefills: int) -> float:
        joined = decoded + sum(count for count in prefills if count <= JOINED_TOKENS)
        passes = joined, sum(count for count in prefills if count > JOINED_TOKENS)
        return sum(self.fixed + count * self.token for count in passes if count)

    def step(self, decoded: int, *prefills: int, noise: float = 1.0) -> float:
        """Takes a step and notes it. Every prompt has another chunk to come, but for its size."""
        rows = [StepRow(n, 9, np.zeros(1, np.int32), 1) for n in range(decoded)]
        rows += [StepRow(99 + n, 9, np.zeros(1 + count, np.int32), count) for n, count in enumerate(prefills)]
        computed = np.array([1] * decoded + list(prefills))
        seconds = self.seconds(decoded, *prefills)
        self.costs.note_step(rows, lengths_answer((computed + 9).tolist(), [9] * len(rows)), seconds * noise)
        return seconds


AVX2, AMX, GPU = (0.008, 0.0028), (0.008, 0.0009), (0.004, 0.00001)


@pytest.mark.parametrize("machine", [AVX2, AMX, GPU])
@pytest.mark.parametrize("decoded", [1, 4, 8, 32])
def test_a_prompt_makes_a_step_no_longer_than_about_two(machine: tuple[float, float], decoded: int) -> None:
    """Where a pass itself takes nearly as long as the step, as on a GPU, the prompt's own pass is what cannot be less."""
    here = Machine(*machine)
    generator = np.random.default_rng(1)
    here.step(0, CHUNK)
    here.step(1)
    for _ in range(30):
        here.step(decoded, noise=generator.uniform(0.9, 1.3))
    for _ in range(100):
        budget = here.costs.prefill_budget(decoded, 1)
        taken = here.step(decoded, budget, noise=generator.uniform(0.9, 1.3))
    assert taken < 2.5 * here.seconds(decoded + 1) + (machine == GPU) * here.fixed


def test_one_text_that_decodes_does_not_hold_up_a_crowd_of_prompts() -> None:
    """A step may take as long as two in which all of them decode, and as four where many more wait than decode."""
    here = Machine(*AVX2)
    here.step(0, CHUNK)
    for decoded in (1, 8, 32) * 10:
        here.step(decoded)
    few, half, many = (here.costs.prefill_budget(decoded, waiting) for decoded, waiting in ((1, 1), (16, 16), (1, 31)))
    assert few < 10 < 40 < half < many < 200
    assert here.seconds(16, half) < 2.2 * here.seconds(32)
    assert 3 * here.seconds(32) < here.seconds(1, many) < 4.2 * here.seconds(32)


def test_where_tokens_cost_little_a_prompt_is_computed_in_large_chunks() -> None:
    here = Machine(*GPU)
    here.step(0, CHUNK)
    here.step(1)
    for _ in range(100):
        here.step(1, here.costs.prefill_budget(1, 1))
    assert here.costs.prefill_budget(1, 1) > 100


def test_a_wrong_first_measurement_is_forgotten() -> None:
    here = Machine(*AMX)
    here.step(0, 20, noise=50)  # the first step of a model may take seconds
    here.step(8, noise=50)
    for _ in range(60):
        here.step(8)
    for _ in range(100):
        here.step(8, here.costs.prefill_budget(8, 1))
    assert here.costs.prefill_budget(8, 1) == pytest.approx(8, abs=4)


def test_while_nothing_decodes_a_whole_chunk_is_computed() -> None:
    here = Machine(*AVX2)
    for _ in range(10):
        here.step(4)
        here.step(0, 20)
    assert here.costs.prefill_budget(0, 1) == CHUNK


def test_prefills_always_advance_and_no_more_than_a_chunk() -> None:
    here = Machine(0.001, 0.0028)
    assert here.costs.prefill_budget(1, 1) == FIRST_BUDGET
    for _ in range(10):
        here.step(0, CHUNK)
        here.step(1)
    assert here.costs.prefill_budget(1, 1) == LEAST_BUDGET
    assert StepCosts(32, 3).prefill_budget(1, 1) == 3


@pytest.mark.parametrize("machine", [AVX2, GPU])
@pytest.mark.parametrize("load", [1.3, 2.0, 0.5])
def test_a_busier_machine_does_not_make_prompts_wait_longer(machine: tuple[float, float], load: float) -> None:
    """Though only steps with prompts are seen from then on."""
    here = Machine(*machine)
    here.step(0, CHUNK)
    for _ in range(30):
        here.step(1)
        here.step(8)
    for _ in range(60):
        here.step(8, here.costs.prefill_budget(8, 1))
    before = here.costs.prefill_budget(8, 1)
    for _ in range(200):
        here.step(8, here.costs.prefill_budget(8, 1), noise=load)
    assert before / 2 <= here.costs.prefill_budget(8, 1) <= 3 * before + 8


def test_rows_that_were_not_computed_do_not_keep_the_others_from_telling() -> None:
    costs = StepCosts(2, CHUNK)
    rows = [StepRow(n, 9, np.zeros(1, np.int32), 1) for n in range(2)]
    costs.note_step(rows, lengths_answer([-1, -1], [0, 0]), 1.0)
    assert not costs.known
    costs.note_step(rows, lengths_answer([10, -2], [9, 0]), 0.5)
    assert costs.of(np.array([1])) == 0.5


def test_a_step_that_scores_a_prompt_tells_nothing() -> None:
    costs = StepCosts(1, CHUNK)
    row = StepRow(1, 0, np.zeros(32, np.int32), 32, 32, full_logits=True)
    costs.note_step([row], lengths_answer([32], [0]), 1.0)
    assert not costs.known and costs.prefill_budget(1, 1) == FIRST_BUDGET


def test_costs_between_and_beyond_what_was_measured() -> None:
    costs = StepCosts(8, 256)
    costs.note(1, 0.010)
    assert costs.of(np.array([1, 9])).tolist() == pytest.approx([0.010, 0.030])  # a guess, until there are two
    for _ in range(100):
        costs.note(9, 0.050)
        costs.note(1, 0.010)
    assert costs.of(np.array([1, 5, 9, 17])).tolist() == pytest.approx([0.010, 0.030, 0.050, 0.090], rel=0.1)


def test_a_slower_machine_slows_all_sizes_so_that_they_can_be_compared() -> None:
    costs = StepCosts(1, 256)
    for _ in range(50):
        for tokens in (1, 4):
            costs.note(tokens, 0.01 * tokens)
    for _ in range(50):
        costs.note(1, 0.02)
    one, four = costs.of(np.array([1, 4]))
    assert one == pytest.approx(0.02, rel=0.05) and 2.5 < four / one <= 4.1


def test_a_disturbed_step_changes_little() -> None:
    costs = StepCosts(1, 256)
    for _ in range(50):
        for tokens in (1, 2):
            costs.note(tokens, 0.01)
    costs.note(2, 3.0)
    one, two = costs.of(np.array([1, 2]))
    assert two / one < 1.05


def test_a_larger_step_never_counts_as_cheaper() -> None:
    costs = StepCosts(1, 256)
    costs.note(1, 0.02)
    costs.note(4, 0.01)
    assert (np.diff(costs.of(np.arange(1, 9))) >= 0).all()


def test_what_a_step_takes_without_a_run_ahead_is_learned_from_steps_with_one() -> None:
    """Three quarters of a step are the backend's pass; each token that a row runs ahead adds a pass."""
    costs = StepCosts(4, CHUNK)
    row = StepRow(1, 9, np.zeros(1, np.int32), 1, run_ahead=9)
    for drawn in (0, 9, 3, 5) * 20:
        passes = (1 + drawn) * 0.003
        costs.note_step([row], lengths_answer([10 + drawn], [9], [drawn], passes), passes + 0.001)
    assert costs.seconds(1) == pytest.approx(0.004)
    assert costs.seconds(1) * costs.pass_share == pytest.approx(0.003, rel=0.01)


def test_what_others_run_ahead_beside_a_prompt_does_not_make_prompts_dear() -> None:
    """A step of 4 ms, 3 of them the pass; 0.1 ms a token of a prompt; 9 tokens drawn ahead beside it."""
    costs = StepCosts(4, CHUNK)
    decoding, prompt = StepRow(1, 9, np.zeros(1, np.int32), 1, run_ahead=9), StepRow(2, 0, np.zeros(100, np.int32), 100)
    for _ in range(60):
        costs.note_step([decoding], lengths_answer([10], [9], [0], 0.003), 0.004)
        costs.note_step([prompt], lengths_answer([100], [0], [0], 0.013), 0.014)
    alone = costs.prefill_budget(1, 1)
    for _ in range(200):
        costs.note_step([decoding, prompt], lengths_answer([19, 100], [9, 0], [9, 0], 0.043), 0.044)
    assert costs.prefill_budget(1, 1) == pytest.approx(alone, rel=0.3)
