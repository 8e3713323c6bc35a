"""The health check of Triton's container speaks the wire contract: it has nothing but the standard library to do so."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from serve.triton_server import free_port
from testing.triton import Triton
from tests.conftest import TINY

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "step.py"


@pytest.fixture
def health_check(model_repository: Path, tmp_path: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("health_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.HTTP_PORT = free_port()  # type: ignore[attr-defined]  # in the container 8000
    options = "--allow-http=true", "--http-address=127.0.0.1", f"--http-port={script.HTTP_PORT}"
    with Triton(model_repository, tmp_path / "run", [TINY], *options, slots=1, metrics=True):
        yield script


def test_it_makes_a_real_step_and_gives_the_slot_back(health_check: ModuleType) -> None:
    for _ in range(3):
        assert health_check.step_all() == [TINY]
