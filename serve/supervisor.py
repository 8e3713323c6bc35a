"""Supervision: restarts Triton when it or its stub dies or hangs; if the gateway dies, everything stops."""

import http.client
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from gateway.settings import Settings
from serve.banner import say
from serve.processes import GuardedProcess
from serve.triton_server import TritonError, TritonServer
from serve.version_cleanup import Retirement

MOST_RESTARTS = 5  # of Triton within RESTART_WINDOW; after that, another one will not help
RESTART_WINDOW = 120.0  # seconds: a hang takes a while to be detected
TRITON_START_TIMEOUT = 300.0  # seconds: a large model's weights may come from a slow disk
GATEWAY_START_TIMEOUT = 60.0  # seconds
WATCH_INTERVAL = 0.5  # seconds
HEALTH_INTERVAL = 2.0  # seconds between health checks of the gateway; each runs a step if nothing else is running
MOST_UNANSWERED = 5  # consecutive checks that Triton may fail: a step over long prompts is not a hang
PROMPT_ANSWER = 3.0  # seconds; the gateway gives Triton one second: if it takes longer, it is too busy itself to judge Triton


class GatewayDied(Exception):
    """The gateway ended although nobody stopped it. Its output is on the terminal."""


@contextmanager
def gateway_process(environment: Mapping[str, str], settings: Settings) -> Iterator[GuardedProcess]:
    """On exit, gives the gateway the time from its settings to finish running requests. Another Ctrl-C cuts that short."""
    command = [sys.executable, "-m", "gateway", "--quiet-start"]  # the banner says more
    gateway = GuardedProcess(command, env=environment, grace=settings.longest_stop)
    try:
        yield gateway
    finally:
        signal.signal(signal.SIGINT, lambda *_: _hurry(gateway))
        gateway.stop()
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hurry(gateway: GuardedProcess) -> None:
    if gateway.running:
        os.kill(gateway.pid, signal.SIGTERM)


def wait_healthy(gateway: GuardedProcess, url: str) -> list[str]:
    """Waits until a step has gone through the gateway, Triton and every model. Returns the models; raises GatewayDied."""
    deadline = time.monotonic() + GATEWAY_START_TIMEOUT
    while (health := ask_health(url))[0] != 200:
        if not gateway.running:
            raise GatewayDied(f"the gateway ended with status {gateway.exit_status} while it started")
        if time.monotonic() > deadline:
            raise GatewayDied(f"{url}/health did not answer 200 within {GATEWAY_START_TIMEOUT:.0f} seconds")
        time.sleep(0.05)
    return [*health[1]]


def watch(gateway: GuardedProcess, triton: TritonServer | None, retirement: Retirement | None, url: str) -> None:
    """Never returns: raises GatewayDied, or TritonError if Triton does not stay up."""
    restarts: deque[float] = deque()
    health = HealthCheck(url)
    while gateway.running:
        if triton and (failure := _failure(triton, health)):
            _restart(triton, failure, restarts)
            health = HealthCheck(url)
        if retirement:
            retirement.retire_idle(health.models)
        time.sleep(WATCH_INTERVAL)
    raise GatewayDied(f"the gateway ended with status {gateway.exit_status}")


class HealthCheck:
    """Periodically asks the gateway whether Triton responds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.models: dict[str, dict[str, Any]] = {}  # from the gateway's last response
        self._unanswered = 0  # questions in a row
        self._next_question = time.monotonic() + HEALTH_INTERVAL

    def finds_hang(self) -> bool:
        """Whether Triton has stopped responding to the gateway. Counts checks rather than time: Ctrl-Z only suspends us."""
        if time.monotonic() >= self._next_question:
            # Only the gateway's own verdict counts: if the gateway does not respond, a new Triton would not help.
            asked = time.monotonic()
            status, self.models = ask_health(self._url)
            if status != 503:
                self._unanswered = 0
            elif time.monotonic() - asked < PROMPT_ANSWER:
                self._unanswered += 1
            self._next_question = time.monotonic() + HEALTH_INTERVAL
        return self._unanswered >= MOST_UNANSWERED


def _failure(triton: TritonServer, health: HealthCheck) -> str | None:
    if not triton.running:
        return "Triton died"
    if triton.stub_died():
        return "Its model process died"
    return "Triton does not answer" if health.finds_hang() else None


def _restart(triton: TritonServer, failure: str, restarts: deque[float]) -> None:
    now = time.monotonic()
    while restarts and restarts[0] < now - RESTART_WINDOW:
        restarts.popleft()
    if len(restarts) == MOST_RESTARTS:
        end = f"The end of {triton.log}:\n{triton.log_end()}"
        raise TritonError(f"Triton failed {MOST_RESTARTS + 1} times within {RESTART_WINDOW:.0f} seconds. {end}")
    restarts.append(now)
    say(f"{failure}; starting Triton again")
    triton.stop()
    triton.start()
    triton.wait_ready(TRITON_START_TIMEOUT)
    say("Triton is ready again")


def ask_health(url: str) -> tuple[int | None, dict[str, dict[str, Any]]]:
    """The HTTP status, and the models if it is 200. The status is None if the gateway does not respond.

    http.client ignores proxy settings in the environment.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return answer.status, json.load(answer)["data"]["models"] if answer.status == 200 else {}
    except (OSError, http.client.HTTPException):
        return None, {}
    finally:
        connection.close()
