"""What starts and stops servers for all other tests."""

import signal
import sys
from pathlib import Path

import pytest

from testing.server import PORT, Server, StartFailed, http_status

SERVE = [sys.executable, "-m", "http.server", PORT, "--bind", "127.0.0.1"]


def test_a_server_is_ready_when_it_is_entered_gone_when_it_is_left_and_back_at_the_same_port(tmp_path: Path) -> None:
    server = Server(SERVE, tmp_path / "log", ready="/")
    for _ in range(2):
        with server:
            assert http_status(server.port, "/") == 200
        assert http_status(server.port, "/") is None


def test_a_server_that_is_killed_has_an_exit_status(tmp_path: Path) -> None:
    with Server(SERVE, tmp_path / "log", ready="/") as server:
        with pytest.raises(TimeoutError, match="still runs"):
            server.wait(0.1)
        server.send(signal.SIGKILL)
        assert server.wait(5) == 128 + signal.SIGKILL


def test_a_server_that_ends_at_once_or_is_never_ready_says_so_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="no such model"):
        Server([sys.executable, "-c", "import sys; sys.exit('no such model')"], tmp_path / "log").start()
    with pytest.raises(StartFailed, match="404"):
        Server(SERVE, tmp_path / "log", ready="/nothing-here", start_timeout=1).start()
