"""What would make a start fail late is found at once."""

import os
import re
import socket
from pathlib import Path

import pytest

from serve import preflight
from serve.preflight import PreflightError
from serve.triton_server import free_port


def test_a_free_port_is_good() -> None:
    preflight.check_port("127.0.0.1", free_port())
    preflight.check_port("0.0.0.0", free_port())


def test_a_taken_port_is_refused_and_the_offered_one_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=f"port {port} is taken") as refused:
            preflight.check_port("0.0.0.0", port)
    offered = re.search(r"PORT=(\d+)", str(refused.value))
    assert offered
    preflight.check_port("0.0.0.0", int(offered[1]))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_this_machine_is_refused_by_name(host: str) -> None:
    with pytest.raises(PreflightError, match=f"HOST is '{host}'"):
        preflight.check_port(host, free_port())


def test_missing_shared_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="cannot be written"):
        preflight.check_shared_memory(tmp_path / "shm")


def test_little_shared_memory_is_refused_in_mebibytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "NEEDED_SHARED_MEMORY", 2**80)
    with pytest.raises(PreflightError, match=r"Triton needs \d+ MiB in .*, \d+ are free"):
        preflight.check_shared_memory(tmp_path)


def test_a_second_start_with_the_same_port_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "5002"
    with preflight.held(run_dir, 5002):
        told = rf"PORT=5002 is starting .*process {os.getpid()}\).* PORT=\d+ make serve"
        with pytest.raises(PreflightError, match=told), preflight.held(run_dir, 5002):
            pass
        with preflight.held(tmp_path / "5003", 5003):
            pass
    with preflight.held(run_dir, 5002):
        assert (run_dir / "supervisor.pid").read_text() == str(os.getpid())
