"""No command outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve import processes
from serve.processes import GuardedProcess, is_alive

ROOT = Path(__file__).resolve().parent.parent.parent
# A command with a child that ignores SIGTERM, as a stub may; it prints the child's process id.
STUBBORN = "trap '' TERM; sh -c 'echo $$; trap \"\" TERM; while :; do sleep 0.1; done' & wait"


def start_stubborn(tmp_path: Path, shm_prefix: str = "-") -> tuple[GuardedProcess, int]:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = GuardedProcess(["sh", "-c", STUBBORN], env=os.environ, output=file, grace=0.3, shm_prefix=shm_prefix)
    while not output.read_text().strip():
        time.sleep(0.01)
    return process, int(output.read_text())


def test_stopping_ends_the_whole_group_even_where_it_ignores_the_request(tmp_path: Path) -> None:
    process, grandchild = start_stubborn(tmp_path)
    assert is_alive(process.pid)
    process.stop()
    assert process.exit_status == 137
    assert not is_alive(process.pid)
    assert not is_alive(grandchild)


def test_a_command_that_dies_takes_its_children_along(tmp_path: Path) -> None:
    process, grandchild = start_stubborn(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == 137
    assert not is_alive(grandchild)


def test_a_killed_owner_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    file = Path(f"/dev/shm/tidegate_test_{os.getpid()}")
    file.touch()
    script = (
        "import os; from serve.processes import GuardedProcess\n"
        f"process = GuardedProcess(['sleep', '1000'], env=os.environ, shm_prefix={file.name!r})\n"
        "print(process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while (is_alive(pid) or file.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)
    assert not file.exists()


def test_after_a_killed_guard_nothing_is_left_either(tmp_path: Path) -> None:
    file = Path(f"/dev/shm/tidegate_test_{os.getpid()}")
    file.touch()
    process, grandchild = start_stubborn(tmp_path, file.name)
    os.kill(process._guard.pid, signal.SIGKILL)
    assert process.wait() == 137
    assert not is_alive(process.pid)
    assert not is_alive(grandchild)
    assert not file.exists()


def test_a_guard_that_hangs_does_not_hinder_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GUARD_TIMEOUT", 0.2)
    process, grandchild = start_stubborn(tmp_path)
    os.kill(process._guard.pid, signal.SIGSTOP)
    process.stop()
    assert not is_alive(process.pid)
    assert not is_alive(grandchild)


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_the_exit_status_is_the_commands_own(command: str, status: int) -> None:
    with GuardedProcess(["sh", "-c", command], env=os.environ) as process:
        assert process.wait() == status


def test_a_command_that_does_not_exist_is_a_failure() -> None:
    with GuardedProcess(["/no/such/command"], env=os.environ, output=subprocess.DEVNULL) as process:  # type: ignore[arg-type]
        assert process.wait() != 0
        assert process.pid == 0
