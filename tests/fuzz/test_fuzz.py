"""The short form of `make fuzz`."""

from pathlib import Path

import pytest

from tests.fuzz import checkpoint_fuzz, wire_fuzz
from tests.fuzz.model import tiny_model


@pytest.mark.slow
def test_random_steps_are_run_or_refused_and_never_disturb_a_good_sequence(tmp_path: Path) -> None:
    figures = wire_fuzz.fuzz(tiny_model(tmp_path), cases=1000, seed=5)
    assert figures.refused > 300 and figures.rows > 300 and figures.drawn > 100 and figures.compared > 50
    assert figures.said >= set(wire_fuzz.TENSORS)  # each was refused for some reason


@pytest.mark.parametrize("kind", checkpoint_fuzz.KINDS)
def test_changed_checkpoints_are_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    figures = checkpoint_fuzz.fuzz(kind, cases=40, seed=5, workshop=tmp_path)
    assert figures.cases == 40 and figures.refused > 10
