"""A Triton that cannot start says why, soon, instead of hanging."""

import os
import shutil
import time
from pathlib import Path

import pytest

from export.exporter import ExportSettings, export
from serve import triton_server
from serve.triton_server import STUB_NAME, TritonError, TritonServer, lay_out_backends
from tests.export import samples


def test_a_model_that_is_not_there_is_an_error_with_tritons_words(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    began = time.monotonic()
    with (
        TritonServer(tmp_path / "repository", tmp_path / "run", ["absent"]) as triton,
        pytest.raises(TritonError, match="ended with status 1.*\n.*'absent': model not found"),
    ):
        triton.wait_ready(60)
    assert time.monotonic() - began < 30
    assert not triton.running


@pytest.mark.slow
def test_a_broken_model_does_not_stop_the_others_and_says_why_it_is_not_served(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "model.pt")
    repository = tmp_path / "repository"
    export(ExportSettings(tmp_path / "model.pt", repository, "good", "fp32"))
    shutil.copytree(repository / "good", repository / "broken")
    (repository / "broken" / "1" / "model_card.json").unlink()
    with TritonServer(repository, tmp_path / "run", env={"TIDEGATE_SLOTS": "2"}) as triton:
        triton.wait_ready(60, needed="good")
        assert triton.refusals().keys() == {"broken"}
        assert "model_card.json" in triton.refusals()["broken"] and "At:" not in triton.refusals()["broken"]
        assert not triton.stub_died()
    with (
        TritonServer(repository, tmp_path / "run", env={"TIDEGATE_SLOTS": "1000000000"}) as triton,
        pytest.raises(TritonError, match="The model was refused: good: 1000000000 slots take"),
    ):
        triton.wait_ready(60, needed="good")
    assert not triton.running


def test_a_model_that_does_not_load_in_time_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with (
        TritonServer(tmp_path / "repository", tmp_path / "run", []) as triton,
        pytest.raises(TritonError, match="not ready after 0 seconds"),
    ):
        triton.wait_ready(0)
    assert not triton.running


def test_a_stub_without_its_shared_library_is_refused_by_the_librarys_name(tmp_path: Path) -> None:
    triton = TritonServer(tmp_path, tmp_path / "run")
    stub = triton_server._wheel() / "python_backend_stubs" / "3.8" / STUB_NAME  # Python 3.8 is not this machine's
    with pytest.raises(TritonError, match=r"libpython3\.8\.so\.1\.0"):
        triton._check_stub(stub)


def test_a_server_keeps_its_address_when_it_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with TritonServer(tmp_path / "repository", tmp_path / "run", []) as triton:
        triton.wait_ready(30)
        address, first = triton.grpc_address, triton.pid
        triton.stop()
        triton.start()
        triton.wait_ready(30)
        assert triton.grpc_address == address
        assert triton.pid != first


def test_a_backend_that_is_in_use_is_replaced_and_never_written_to(tmp_path: Path) -> None:
    lay_out_backends(tmp_path)
    library = tmp_path / "python" / "libtriton_python.so"
    with library.open("rb") as in_use:
        lay_out_backends(tmp_path)
        assert os.fstat(in_use.fileno()).st_nlink == 0
        assert library.read_bytes() == in_use.read()


def test_a_stopped_server_leaves_its_log_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with TritonServer(tmp_path / "repository", tmp_path / "run", []) as triton:
        triton.wait_ready(30)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["triton.log"]
