"""One request never hurts another: beside the largest bodies of all kinds, a stream and a liveness probe go on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from gateway.http.body import MAXIMUM_BODY
from serve.triton_server import TritonServer
from testing.gateway import Gateway
from testing.proc import shared_once
from tests.conftest import TINY
from tests.gateway.http_client import client
from tests.gateway.large_bodies import BODIES

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# Each several times what was measured on two busy cores, and a fraction of what these bodies took when they were not bounded.
SLOWEST_PROBE = 0.6  # seconds
SLOWEST_ANSWER = 8.0  # seconds
MOST_MEMORY = 512 << 20  # bytes, of the gateway and its processes
STREAM = {"model": TINY, "prompt": "The king", "max_tokens": 900, "temperature": 0, "ignore_eos": True, "stream": True}


class Neighbour:
    """What is seen beside the attack: how slow `/livez` was at the worst, how much of a stream came, what memory was taken."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._gateway, self._key = gateway, key
        self._over = threading.Event()
        self.slowest_probe, self.events, self.broken, self.memory = 0.0, 0, 0, 0

    def probe(self) -> None:
        with self._gateway.connect() as connection:
            while not self._over.wait(0.05):
                began = time.monotonic()
                assert b"200 OK" in self._gateway.livez(connection)
                self.slowest_probe = max(self.slowest_probe, time.monotonic() - began)

    def watch_memory(self) -> None:
        before = shared_once(self._gateway.pid)
        while not self._over.wait(0.02):
            self.memory = max(self.memory, shared_once(self._gateway.pid) - before)

    def read_streams(self) -> None:
        with client(self._gateway.url, self._key) as http:
            while not self._over.is_set():
                with http.stream("POST", "/v1/completions", json=STREAM) as response:
                    assert response.status_code == 200
                    for line in response.iter_lines():
                        self.events += line.startswith("data: {")
                        self.broken += '"error"' in line
                        if self._over.is_set():
                            break

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ThreadPoolExecutor(3) as threads:
            tasks = [threads.submit(task) for task in (self.probe, self.read_streams, self.watch_memory)]
            try:
                while not self.events:
                    time.sleep(0.01)
                yield
            finally:
                self._over.set()
        for task in tasks:
            task.result()


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with Gateway(triton.grpc_address, log, MODEL_NAME=TINY, RUN_AHEAD="off") as started:
        yield started
        assert "Traceback" not in log.read_text()


def send(gateway: Gateway, key: str, name: str) -> tuple[int, float, str]:
    path, body = BODIES[name]
    assert 0.9 * MAXIMUM_BODY < len(body) <= MAXIMUM_BODY
    began = time.monotonic()
    with client(gateway.url, key) as http:
        answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    return answer.status_code, time.monotonic() - began, answer.text[:500]


def test_beside_every_large_body_a_stream_and_a_probe_go_on(gateway: Gateway, api_key: str) -> None:
    slow = {}
    for name in BODIES:
        neighbour = Neighbour(gateway, api_key)
        with neighbour.watching():
            status, seconds, answer = send(gateway, api_key, name)
        assert status in (200, 400, 429), (name, status, answer)
        assert '"error"' not in answer or '"message":' in answer, (name, answer)
        seen = (seconds, neighbour.slowest_probe, neighbour.memory >> 20, neighbour.broken)
        if seconds > SLOWEST_ANSWER or neighbour.slowest_probe > SLOWEST_PROBE or neighbour.memory > MOST_MEMORY:
            slow[name] = seen
        assert neighbour.broken == 0, name
        print(f"{name:34} {status} {seconds:5.2f} s, probe {seen[1]:.3f} s, {seen[2]:4} MiB, {neighbour.events} events")
    assert not slow


@pytest.mark.parametrize("name", ["messages: empty objects", "tokenize: digits, one by one", "prompt: token ids"])
def test_many_large_bodies_at_once_are_answered_or_refused_soon(gateway: Gateway, api_key: str, name: str) -> None:
    neighbour = Neighbour(gateway, api_key)
    with neighbour.watching(), ThreadPoolExecutor(33) as threads:
        began, events = time.monotonic(), neighbour.events
        answers = list(threads.map(lambda _: send(gateway, api_key, name), range(33)))
        assert neighbour.events > events
        assert httpx.get(f"{gateway.url}/health", timeout=10).status_code == 200
    print(name, time.monotonic() - began, neighbour.slowest_probe, neighbour.memory >> 20, [status for status, *_ in answers])
    assert {status for status, *_ in answers} <= {200, 400, 429}
    assert max(seconds for _, seconds, _ in answers) < 2 * SLOWEST_ANSWER
    assert neighbour.slowest_probe < 3 * SLOWEST_PROBE and neighbour.memory < 2 * MOST_MEMORY and neighbour.broken == 0
