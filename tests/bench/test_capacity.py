"""The capacity model: its formulas say what they should, and a simulation of the real engine agrees with them."""

import math
from pathlib import Path

import pytest

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from backends.onnx_decoder.decoder import Decoder
from bench import capacity, scaling_document
from bench.capacity import GatewayCost, StepCost, Workload, measured, pace, people, rate
from bench.capacity_measure import fitted
from bench.capacity_simulation import Crowd, simulate
from bench.simulated_stack import MERGED
from gateway.http.protocol import MAXIMUM_CONNECTIONS
from gateway.settings import Settings
from scripts import gpu_memory
from tests.conftest import ROOT, TINY, version_directory

STEP = StepCost(fixed=0.010, per_row=0.002, per_row_past=4e-6, prefill_fixed=0.002, prefill_per_token=0.002)
GATEWAY = GatewayCost(per_step=0.001, per_token=0.0001, per_request=0.002)
WORK = Workload(prompt=40, answer=80, think=40)
SLOTS = 32


def test_a_step_costs_its_weights_once_and_each_row_and_its_past() -> None:
    assert STEP.decode(1, 0) == pytest.approx(0.012)
    assert STEP.decode(8, 500) == pytest.approx(0.010 + 8 * 0.002 + 8 * 500 * 4e-6)


def test_a_prompt_is_computed_in_chunks_of_the_gateways_default_size() -> None:
    assert Settings().prefill_chunk == capacity.PREFILL_CHUNK
    assert STEP.prefill(256) == pytest.approx(0.002 + 256 * 0.002)
    assert STEP.prefill(257) == pytest.approx(2 * 0.002 + 257 * 0.002)


def test_what_the_model_takes_from_the_code_is_what_the_code_has() -> None:
    assert capacity.CONNECTIONS == MAXIMUM_CONNECTIONS
    assert capacity.SPARE_POSITIONS == JOINED_TOKENS
    assert f"max_batch_size: {MERGED} " in (ROOT / "model_repository" / "README.md").read_text()


def test_the_memory_of_a_slot_is_what_the_decoder_allocates(model_repository: Path) -> None:
    version = version_directory(model_repository, TINY)
    asked: list[int] = []

    def one_slot(size: int) -> int:
        asked.append(size)
        return 1

    decoder = Decoder(version / "model.onnx", slots=one_slot, context_length=1024)
    kv_heads, _, head_dim = decoder._slot_shape
    assert asked == [capacity.slot_bytes(len(decoder._pool) // 2, kv_heads, head_dim, 1024, element=4)]


def test_the_table_for_gpus_reckons_with_the_same_memory() -> None:
    for model in gpu_memory.MODELS.values():
        expected = capacity.slot_bytes(model.layers, model.kv_heads, model.head_dim, model.context_length, element=2)
        assert model.slot_bytes == expected


def test_littles_law_holds_for_slots_and_for_people() -> None:
    for rows in (1, 8, 32):
        answers = rate(STEP, GATEWAY, WORK, rows)
        in_slot = WORK.answer * pace(STEP, GATEWAY, WORK, rows)
        assert answers * in_slot == pytest.approx(rows)
        assert people(STEP, GATEWAY, WORK, rows) == pytest.approx(answers * (in_slot + WORK.think))


def test_more_streams_are_slower_each_and_faster_together() -> None:
    paces = [pace(STEP, GATEWAY, WORK, rows) for rows in range(1, 65)]
    rates = [rate(STEP, GATEWAY, WORK, rows) for rows in range(1, 65)]
    assert paces == sorted(paces) and rates == sorted(rates)
    most = capacity.rows_within(STEP, GATEWAY, WORK, 64, 0.1)
    assert pace(STEP, GATEWAY, WORK, most) <= 0.1 < pace(STEP, GATEWAY, WORK, most + 1)
    assert capacity.rows_within(STEP, GATEWAY, WORK, 64, 0.001) == 0


def test_a_second_gateway_costs_the_weights_a_second_time_and_a_third_nothing() -> None:
    one, two, three = (STEP.fixed, 2 * STEP.fixed, 2 * STEP.fixed)
    free = GatewayCost(0, 0, 0)
    paces = [pace(STEP, free, WORK, SLOTS, senders) for senders in (1, 2, 3)]
    assert [each - paces[0] for each in paces] == pytest.approx([fixed - one for fixed in (one, two, three)])


def test_few_streams_have_no_more_gateways_than_they_are() -> None:
    assert pace(STEP, GATEWAY, WORK, 1, senders=2) == pace(STEP, GATEWAY, WORK, 1)
    assert pace(STEP, GATEWAY, WORK, 2, senders=3) == pace(STEP, GATEWAY, WORK, 2, senders=2)


def test_gateways_are_counted_by_core_and_by_connection_and_are_two_at_least() -> None:
    assert capacity.gateways(GATEWAY, WORK, tritons=1, answers=0.1, streams=10, step_rate=10) == 2
    assert capacity.gateways(GATEWAY, WORK, tritons=1, answers=0.1, streams=3 * 2048, step_rate=10) == 3
    busy = capacity.gateways(GATEWAY, WORK, tritons=4, answers=200, streams=128, step_rate=20)
    shared, own = GATEWAY.cpu(0, 200 * WORK.answer, 200), GATEWAY.per_step * 4 * 20
    assert shared / busy + own <= capacity.BUSY < shared / (busy - 1) + own
    with pytest.raises(ValueError, match="fewer Tritons"):
        capacity.gateways(GATEWAY, WORK, tritons=100, answers=1, streams=1, step_rate=20)


def test_no_step_is_faster_than_its_bytes() -> None:
    assert capacity.step_bound(weights=270_000_000, rows=0, past=0, kv_bytes=0, bandwidth=2.7e12) == pytest.approx(1e-4)
    assert capacity.slots_in(memory=1000, weights=400, slot=100) == 5
    assert capacity.slots_in(memory=100, weights=400, slot=100) == 0


def test_costs_are_found_again_from_steps_that_they_make() -> None:
    features = [[1.0, rows, rows * past] for rows in (1, 4, 16) for past in (10, 400)]
    seconds = [STEP.decode(rows, past / rows) for _, rows, past in features]
    assert fitted(features, seconds) == pytest.approx([STEP.fixed, STEP.per_row, STEP.per_row_past])
    assert min(fitted([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]], [3.0, 2.0, 1.0])) >= 0  # a cost below nothing means nothing


def test_the_guides_tables_are_those_of_the_measured_costs() -> None:
    step, gateway, about = measured()
    guide = scaling_document.DOCUMENT.read_text()
    assert scaling_document.filled(guide, "costs", scaling_document.costs(step, gateway, about)) == guide
    assert scaling_document.filled(guide, "capacity", scaling_document.capacity(step, gateway)) == guide
    with pytest.raises(ValueError, match="no place for nothing"):
        scaling_document.filled(guide, "nothing", "")


@pytest.mark.parametrize(("tritons", "senders"), [(1, 1), (2, 2)])
def test_a_simulated_crowd_gets_what_the_formulas_say(tritons: int, senders: int) -> None:
    """Of the real engine, with as many people as there are slots for, and half as many again."""
    work = WORK
    full = (STEP, GATEWAY, work, SLOTS, senders)
    told = simulate(STEP, GATEWAY, Crowd(math.ceil(people(*full) * tritons * 1.5), work, tritons, senders, SLOTS, seconds=300))
    assert told.tokens == pytest.approx(rate(*full) * tritons * work.answer, rel=0.15)
    assert told.pace == pytest.approx(pace(*full), rel=0.15)
    assert told.triton_busy > 0.9


@pytest.mark.parametrize("rows", [1, 16, 128])
def test_the_gateways_work_counts_where_it_takes_longer_than_a_pass_as_on_a_gpu(rows: int) -> None:
    fast, work = StepCost(0.002, 2e-5, 1e-9, 0.001, 2e-6), Workload(prompt=100, answer=200)
    told = simulate(fast, GATEWAY, Crowd(rows, work, gateways=2, slots=128, seconds=20))
    assert told.pace == pytest.approx(pace(fast, GATEWAY, work, rows, 2), rel=0.15)
    assert told.streams == pytest.approx(rows, rel=0.15)


def test_a_simulated_crowd_that_is_small_waits_for_nothing() -> None:
    few = max(1, int(people(STEP, GATEWAY, WORK, SLOTS) * 0.3))
    told = simulate(STEP, GATEWAY, Crowd(few, WORK, slots=SLOTS, seconds=300))
    assert told.refused_share == 0 and told.first_p95 < 2 and told.streams < SLOTS / 2


def test_a_simulated_crowd_that_is_too_large_is_refused_in_part_and_the_rest_is_served_at_the_full_rate() -> None:
    crowd = math.ceil(people(STEP, GATEWAY, WORK, SLOTS) * 8)
    told = simulate(STEP, GATEWAY, Crowd(crowd, WORK, slots=SLOTS, seconds=300))
    assert told.refused_share > 0.2
    assert told.tokens == pytest.approx(rate(STEP, GATEWAY, WORK, SLOTS) * WORK.answer, rel=0.15)


def test_a_simulation_is_the_same_every_time() -> None:
    crowd = Crowd(40, WORK, tritons=2, gateways=2, slots=4, seconds=100)
    first, second = (simulate(STEP, GATEWAY, crowd) for _ in range(2))
    assert vars(first) | {"real_seconds": 0} == vars(second) | {"real_seconds": 0}
