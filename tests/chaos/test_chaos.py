"""The short form of `make chaos`: a few faults of each kind against the real stack, judged by the same oracle."""

import asyncio
from pathlib import Path

import pytest

from chaos.report import Report
from chaos.run import run
from chaos.schedule import Plan
from tests.logits import WIDER_VECTORS

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SHORT = Plan(
    seed=5,
    seconds=8,
    streams=8,
    kills=2,
    stub_kills=1,
    stalls=1,
    swaps=1,
    drains=1,
    disconnects=20,
    delivery_faults=20,
    longest_stall=3,
)  # the second kill is of both Tritons at once


@pytest.fixture(scope="module")
def report(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    lines: list[str] = []
    told = asyncio.run(run(SHORT, model_repository, tmp_path_factory.mktemp("chaos"), lines.append))
    print("\n".join(lines), told, sep="\n")  # shown where a test fails
    return told


def test_every_fault_was_made(report: Report) -> None:
    assert report.faults == report.planned
    assert sum(report.restarts.values()) >= 1
    assert report.answered > 0


def test_no_accepted_request_is_lost_to_any_fault(report: Report) -> None:
    assert (report.lost, report.errors) == (0, {})


def test_every_text_is_byte_for_byte_what_it_is_without_faults(report: Report) -> None:
    assert report.texts_compared >= report.answered
    assert WIDER_VECTORS or report.wrong == 0, report.examples


def test_streams_go_on_within_seconds_after_a_fault(report: Report) -> None:
    for kind, times in report.recovery.items():
        assert times["max"] < 20, kind


def test_clients_that_leave_in_any_phase_and_faults_leave_no_slot_taken(report: Report) -> None:
    assert report.left >= SHORT.disconnects // 2  # others had their whole answer first, or were refused
    assert report.slots_left == 0


def test_drained_gateway_ends_well_and_nothing_is_left_in_shared_memory(report: Report) -> None:
    assert (report.failed_drains, report.drains["count"], report.shared_memory_left) == (0, 1, 0)
