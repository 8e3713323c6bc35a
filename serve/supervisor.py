"""Keeps what was started alive: Triton is started again when it or its stub dies; when the gateway dies, all ends."""

import http.client
import sys
import time
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

from serve.announcement import say
from serve.processes import GuardedProcess
from serve.triton_server import TritonError, TritonServer

MOST_RESTARTS = 5  # of Triton within RESTART_WINDOW: then it will not get better by itself
RESTART_WINDOW = 60.0  # seconds
TRITON_START_TIMEOUT = 300.0  # seconds: a large model's weights may come from a slow disk
GATEWAY_START_TIMEOUT = 60.0  # seconds
WATCH_INTERVAL = 0.5  # seconds


class GatewayDied(Exception):
    """The gateway ended although nobody stopped it. What it said is on the terminal."""


def start_gateway(environment: Mapping[str, str]) -> GuardedProcess:
    return GuardedProcess([sys.executable, "-m", "gateway"], env=environment, grace=4.0)


def wait_healthy(gateway: GuardedProcess, url: str) -> None:
    """Returns when a step has gone all the way through the gateway, Triton and the model. GatewayDied where that fails."""
    deadline = time.monotonic() + GATEWAY_START_TIMEOUT
    while not _is_healthy(url):
        if not gateway.running:
            raise GatewayDied(f"the gateway ended with status {gateway.exit_status} while it started")
        if time.monotonic() > deadline:
            raise GatewayDied(f"{url}/health did not answer 200 within {GATEWAY_START_TIMEOUT:.0f} seconds")
        time.sleep(0.05)


def watch(gateway: GuardedProcess, triton: TritonServer | None) -> None:
    """Never returns: GatewayDied, or TritonError where Triton does not stay up."""
    restarts: deque[float] = deque()
    while gateway.running:
        if triton and (not triton.running or triton.stub_died()):
            _restart(triton, restarts)
        time.sleep(WATCH_INTERVAL)
    raise GatewayDied(f"the gateway ended with status {gateway.exit_status}")


def _restart(triton: TritonServer, restarts: deque[float]) -> None:
    now = time.monotonic()
    while restarts and restarts[0] < now - RESTART_WINDOW:
        restarts.popleft()
    if len(restarts) == MOST_RESTARTS:
        end = f"The end of {triton.log}:\n{triton.log_end()}"
        raise TritonError(f"Triton died {MOST_RESTARTS + 1} times within a minute. {end}")
    restarts.append(now)
    say(f"{'Its model process' if triton.running else 'Triton'} died; starting Triton again")
    triton.stop()
    triton.start()
    triton.wait_ready(TRITON_START_TIMEOUT)
    say("Triton is ready again")


def _is_healthy(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
