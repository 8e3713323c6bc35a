"""A watched stack: a Triton, a gateway and the real Prometheus with our configuration, and clients that do everything."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway import keys
from testing.server import PORT, Server
from testing.triton import Triton
from tests.conftest import ROOT, TINY, gateway_process

MONITORING = ROOT / "monitoring"
SCRAPE_INTERVAL, RATE_INTERVAL = "1s", "5s"


class Stack:
    def __init__(self, triton: Triton, gateway: str, key: str, prometheus: str) -> None:
        self.triton, self.gateway, self.key, self.prometheus = triton, gateway, key, prometheus

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now; fails where Prometheus cannot read it."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=30)
        assert answer.status_code == 200, (expression, answer.text)
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def metric_names(self) -> set[str]:
        return set(httpx.get(f"{self.prometheus}/api/v1/label/__name__/values").json()["data"])


@contextmanager
def watched_stack(repository: Path, directory: Path) -> Iterator[Stack]:
    key = keys.create(directory / "keys.json", "load")
    with Triton(repository, directory / "triton", [TINY], slots=4, metrics=True) as triton:
        settings = {"MODEL_NAME": TINY, "MAX_WAITING": "12", "API_KEYS_FILE": str(directory / "keys.json")}
        with (
            gateway_process(triton.grpc_address, directory / "gateway.log", **settings) as gateway,
            prometheus(directory, gateway.removeprefix("http://"), triton.metrics_address) as address,
        ):
            yield Stack(triton, gateway, key, address)


@contextmanager
def prometheus(directory: Path, gateway: str, triton: str) -> Iterator[str]:
    """The real one, with our file: only where its jobs find their targets and how often it looks are others."""
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    command = ["prometheus", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{PORT}"]
    server = Server([*command, f"--storage.tsdb.path={directory / 'tsdb'}"], log, ready="/-/ready", grace=30)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    targets = {"gateway": gateway, "triton": triton, "prometheus": server.url.removeprefix("http://")}
    for job in config["scrape_configs"]:
        for way in [name for name in job if name.endswith("_configs")]:
            del job[way]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["global"] = {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL}
    file.write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", directory)
    with server:
        yield server.url


class Load:
    """Clients of all kinds until the end: streams, whole answers, several at once, conversations, mistakes, and too many."""

    def __init__(self, stack: Stack, clients: int = 4) -> None:
        self._stack = stack
        self._end = threading.Event()
        self._threads = ThreadPoolExecutor(clients + 1)
        self._running = [self._threads.submit(self._until_end, self._converse, number) for number in range(clients)]
        self._running.append(self._threads.submit(self._until_end, self._err, 0))

    def burst(self, requests: int = 40) -> None:
        """More at once than may run and wait."""
        with ThreadPoolExecutor(requests) as threads:
            list(threads.map(lambda _: self._post("/generate", {"prompt": "All at once", "max_length": 60}), range(requests)))

    def stop(self) -> None:
        self._end.set()
        for one in self._running:
            one.result(60)
        self._threads.shutdown()

    def _until_end(self, act: Callable[[int, int], None], number: int) -> None:
        turn = 0
        while not self._end.is_set():
            act(number, turn)
            turn += 1

    def _converse(self, number: int, turn: int) -> None:
        """A conversation grows for some turns: its beginning is cached."""
        said = [f"This is conversation {number}, {turn // 4}, about the sea and all that lives in it."] * (2 + turn % 4)
        body = {"model": TINY, "messages": [{"role": "user", "content": text} for text in said], "max_tokens": 40 + 10 * number}
        self._post("/v1/chat/completions", body | {"stream": number % 2 == 0, "n": 1 + number % 2, "ignore_eos": True})
        time.sleep(0.05 * number)

    def _err(self, _: int, turn: int) -> None:
        self._post("/v1/chat/completions", {"model": "gpt-5", "messages": [{"role": "user", "content": "?"}]})
        httpx.get(f"{self._stack.gateway}/v1/models", timeout=30)
        self._post("/v1/completions", {"model": TINY, "prompt": "x", "temperature": 3})
        self._end.wait(0.5)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self._stack.key}", "Content-Type": "application/json"}
        httpx.post(f"{self._stack.gateway}{path}", content=json.dumps(body), headers=headers, timeout=60)
