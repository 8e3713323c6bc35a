"""The formulas of docs/scaling.md: what they say, and that they use the sizes that the code has."""

from pathlib import Path

import pytest

from backends.onnx_decoder.decoder import Decoder
from bench import capacity
from bench.capacity import ANSWER, GatewayCost, StepCost, fitted, pace
from gateway.settings import Settings
from scripts import gpu_memory
from tests.conftest import TINY, version_directory

STEP = StepCost(fixed=0.010, per_row=0.002, per_row_past=4e-6, prefill_fixed=0.002, prefill_per_token=0.002)
GATEWAY = GatewayCost(per_step=0.001, per_token=0.0001, per_request=0.002)


def test_a_step_costs_its_weights_once_and_each_row_and_its_past() -> None:
    assert STEP.decode(1, 0) == pytest.approx(0.012)
    assert STEP.decode(8, 500) == pytest.approx(0.010 + 8 * 0.002 + 8 * 500 * 4e-6)


def test_a_prompt_is_computed_in_chunks_of_the_gateways_default_size() -> None:
    assert Settings().prefill_chunk == capacity.PREFILL_CHUNK
    assert STEP.prefill(256) == pytest.approx(0.002 + 256 * 0.002)
    assert STEP.prefill(257) == pytest.approx(2 * 0.002 + 257 * 0.002)


def test_the_table_for_gpus_counts_a_slot_as_the_decoder_allocates_it(model_repository: Path) -> None:
    asked: list[int] = []

    def one_slot(size: int) -> int:
        asked.append(size)
        return 1

    model = version_directory(model_repository, TINY) / "model.onnx"
    decoder = Decoder(model, slots=one_slot, context_length=1024)
    kv_heads, _, head_dim = decoder._slot_shape
    in_half_precision = gpu_memory.Model(0, len(decoder._pool) // 2, kv_heads, head_dim, 1024).slot_bytes
    assert asked == [2 * in_half_precision]  # fp32 on a CPU


def test_more_streams_are_slower_each_and_faster_together() -> None:
    paces = [pace(STEP, GATEWAY, rows) for rows in range(1, 65)]
    rates = [rows / every for rows, every in enumerate(paces, 1)]
    assert paces == sorted(paces) and rates == sorted(rates)


def test_a_streams_pace_is_a_step_the_gateways_work_and_its_share_of_prompts() -> None:
    alone = STEP.decode(1, 40 + ANSWER / 2) + GATEWAY.per_step + GATEWAY.per_token
    assert pace(STEP, GATEWAY, 1, prompt=40) == pytest.approx(alone + (STEP.prefill(40) + GATEWAY.per_request) / ANSWER)


def test_the_table_of_what_a_triton_does_follows_littles_law() -> None:
    last = capacity.tables(STEP, GATEWAY).splitlines()[-1]
    streams, _, _, answers, users = (float(cell) for cell in last.strip("| ").split("|"))
    assert streams == pytest.approx(answers * ANSWER * pace(STEP, GATEWAY, streams), rel=0.05)
    assert users == pytest.approx(streams + answers * capacity.THINKING, abs=1)


def test_costs_are_found_again_from_steps_that_they_make() -> None:
    features = [[1.0, rows, rows * past] for rows in (1, 4, 16) for past in (10, 400)]
    seconds = [STEP.decode(rows, past / rows) for _, rows, past in features]
    assert fitted(features, seconds) == pytest.approx([STEP.fixed, STEP.per_row, STEP.per_row_past])
    assert min(fitted([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]], [3.0, 2.0, 1.0])) >= 0  # a cost below nothing means nothing
