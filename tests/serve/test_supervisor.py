"""When `make serve` starts Triton again."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serve import supervisor
from serve.supervisor import MOST_UNANSWERED, HealthCheck


class Gateway(BaseHTTPRequestHandler):
    """Says 503 after a while."""

    seconds = 0.0

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(supervisor, "HEALTH_INTERVAL", 0.0)
    monkeypatch.setattr(supervisor, "PROMPT_ANSWER", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_gateway_that_is_too_busy_to_answer_in_time_is_no_reason_to_start_triton_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HealthCheck(url)
    assert [check.finds_hang() for _ in range(MOST_UNANSWERED - 1)] == [False] * (MOST_UNANSWERED - 1)
    monkeypatch.setattr(Gateway, "seconds", 0.6)
    assert [check.finds_hang() for _ in range(3)] == [False] * 3
    monkeypatch.setattr(Gateway, "seconds", 0.0)
    assert check.finds_hang()
