"""What would make a start fail late is found at once."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve import preflight
from serve.preflight import PreflightError
from serve.triton_server import free_port
from tests.own_mounts import in_own_mounts, require_mounts

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


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
        told = rf"another server with PORT=5002 is starting .*process {os.getpid()}\).* PORT=\d+ make serve"
        with pytest.raises(PreflightError, match=told), preflight.held(run_dir, 5002):
            pass
        with preflight.held(tmp_path / "5003", 5003):
            pass
    with preflight.held(run_dir, 5002):
        assert (run_dir / "supervisor.pid").read_text() == str(os.getpid())


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who owns nothing here."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_this_user_may_not_write_is_refused_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with without_rights(), pytest.raises(PreflightError, match="is not writable by this user: chown") as refused:
        preflight.check_directory(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PreflightError, match="is not a directory: move that file away"):
            preflight.check_directory(directory)


def test_a_good_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    preflight.check_directory(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []


REPOSITORY, SHARED = shlex.quote(str(ROOT / "model_repository")), "/dev/shm"
CHECKOUT = shlex.quote(str(ROOT))
READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
FULL = "mount -t tmpfs -o size=1m tmpfs {0}"
MACHINES = {
    "a full disk": (FULL.format(REPOSITORY), "the disk of .*model_repository is full .*: make room there"),
    "a repository that is read-only": (READ_ONLY.format(REPOSITORY), "model_repository is on a file system .* read-only"),
    "a checkout that is read-only": (READ_ONLY.format(CHECKOUT), r"\.run is on a file system .* read-only"),
    "a full /dev/shm": (FULL.format(SHARED), "Triton needs 64 MiB in /dev/shm, 1 are free: remove files there"),
    "a /dev/shm that is read-only": ("mount -t tmpfs -o ro tmpfs /dev/shm", "needs /dev/shm, which cannot be written"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_bare_machine_is_told_what_to_do_in_one_sentence(machine: str, tmp_path: Path) -> None:
    """`python -m serve` where the machine really is like that, in a mount namespace of its own."""
    require_mounts(tmp_path)
    mount, said = MACHINES[machine]
    script = f"{mount} && cd {CHECKOUT} && exec {shlex.quote(sys.executable)} -m serve"
    environment = os.environ | {"PORT": str(free_port())}
    command = in_own_mounts(tmp_path / "root", "sh", "-c", script)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.search(f"^tidegate: .*{said}", done.stderr) and len(done.stderr.splitlines()) == 1, done.stderr
