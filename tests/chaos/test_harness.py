"""The harness itself: an oracle that could not fail, or a line that could not rise, would prove nothing."""

import dataclasses
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.document import DOCUMENT, write_figures
from chaos.memory import Growth, Sample
from chaos.oracle import Tally
from chaos.questions import Question, questions
from chaos.recovery import Recoveries
from chaos.report import Report, summary
from chaos.schedule import Plan, schedule
from testing import ROOT
from testing.figures import percentile

QUESTION = Question("one", "chat", "The king", 20, {"n": 2})
PLAN = Plan()


def tally() -> Tally:
    return Tally({"one": ("the first text", "the second text")})


def test_the_right_texts_are_neither_wrong_nor_lost() -> None:
    told = tally()
    told.note_answer(QUESTION, ("the first text", "the second text"))
    told.note_left(QUESTION, ("the first", ""))
    assert (told.answered, told.left, told.texts_compared, told.wrong, told.lost) == (1, 1, 4, 0, 0)


@pytest.mark.parametrize("text", ["the first tex", "the first text.", "the first Text", "", "the first text\ufffd"])
def test_one_byte_that_differs_makes_a_text_wrong(text: str) -> None:
    told = tally()
    told.note_answer(QUESTION, (text, "the second text"))
    assert told.wrong == 1


def test_what_a_leaving_client_has_read_must_be_the_beginning_of_its_text() -> None:
    told = tally()
    told.note_left(QUESTION, ("the third", "the second text, and more"))
    assert told.wrong == 2


def test_questions_have_different_names_and_fixed_answers() -> None:
    asked = questions()
    assert len({question.name for question in asked}) == len(asked)
    assert {question.route for question in asked} == {"generate", "chat", "completions"}
    assert all(question.options["temperature"] == 0 or "seed" in question.options for question in asked)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert schedule(PLAN) == schedule(PLAN)
    assert schedule(PLAN) != schedule(replace(PLAN, seed=2))


def test_a_full_schedule_has_at_least_the_promised_faults_within_its_time() -> None:
    faults = schedule(PLAN)
    counts = {kind: sum(fault.kind == kind for fault in faults) for kind in PLAN.counts()}
    assert counts == {
        "kill of Triton": 30,
        "kill of its stub": 30,
        "stall": 10,
        "swap of a replica": 2,
        "drain of a gateway": 10,
        "disconnect": 200,
        "fault in a delivery": 200,
    }
    assert all(0 <= fault.at < PLAN.seconds for fault in faults)
    stalls = [fault.stalled for fault in faults if fault.kind == "stall"]
    assert min(stalls) >= 2 and max(stalls) > 20  # some end only with a restart


def test_recovery_is_that_of_the_slowest_stream_that_the_fault_met() -> None:
    recoveries = Recoveries()
    for arrivals in ([1.0, 2.0, 5.0], [1.0, 3.0], [4.0, 6.0], [0.5, 1.5]):  # the last two: not yet begun, ended already
        recoveries.stream().extend(arrivals)
    assert recoveries.times([("kill", 2.5), ("kill", 100.0)]) == {"kill": [2.5]}


def test_percentiles_are_values_that_were_measured() -> None:
    values = random.Random(1).sample(range(1, 101), 100)
    assert [percentile(values, share) for share in (0.5, 0.95, 1.0)] == [50, 95, 100]
    assert percentile([3.0], 0.95) == 3.0


def samples(growth: float) -> list[Sample]:
    """MiB a minute; the first half grows much faster, as a warm-up does."""
    noise = random.Random(3)
    return [
        Sample(at=5.0 * n, rss=0, pss=100 + min(n, 60) + growth * 5 * n / 60 + noise.uniform(-1, 1), open_files=0, threads=0)
        for n in range(240)
    ]


@pytest.mark.parametrize("growth", [0.0, 1.5])
def test_growth_after_the_warm_up_is_seen_and_the_warm_up_is_not(growth: float) -> None:
    told = Growth.of(samples(growth))
    assert told.slope == pytest.approx(growth, abs=0.15)
    assert told.error < 0.1


@pytest.fixture
def good() -> Report:
    counts = {str(kind): count for kind, count in PLAN.counts().items()}
    return Report(
        command="make chaos", seed=1, seconds=720.0, streams=32, faults=counts, planned=counts, requests=1000, answered=900,
        left=100, texts_compared=1000, bytes_compared=10**6, lost=0, wrong=0, refusals={}, errors={}, examples=[],
        recovery={"stall": summary([1.0, 2.0])}, restarts={"Triton died": 30}, drains=summary([3.0]), failed_drains=0,
        slots_left=0, shared_memory_left=0, cores=2,
    )  # fmt: skip


def test_a_run_is_good_only_where_nothing_at_all_went_wrong(good: Report) -> None:
    assert good.good
    for change in ("lost", "wrong", "failed_drains", "slots_left", "shared_memory_left"):
        assert not dataclasses.replace(good, **{change: 1}).good  # type: ignore[arg-type]
    assert not replace(good, answered=0).good
    assert not replace(good, faults=good.faults | {"stall": 9}).good


def test_figures_replace_those_of_the_run_before_and_nothing_else(good: Report, tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text("before\n<!-- figures: made by `python -m chaos --report` -->\nold\n<!-- end -->\nafter\n")
    good.write(tmp_path / "chaos.json")
    write_figures(document, tmp_path)
    write_figures(document, tmp_path)
    text = document.read_text()
    assert text.startswith("before\n<!-- figures") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "`make chaos` passed." in text and "| **requests lost** | **0** |" in text and "| stall | 10 | 1.00 s |" in text
    assert "has not been run here" in text
    assert json.loads((tmp_path / "chaos.json").read_text())["good"] is True


def test_every_test_that_the_document_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT.read_text())
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


def test_a_document_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        write_figures(tmp_path / "other.md", tmp_path)
