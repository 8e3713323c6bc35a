"""`make serve` gives its gateway the time that GRACE_PERIOD gives to texts, and takes none where nothing runs."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from testing.server import PORT, Server
from testing.triton import Triton
from tests.conftest import TINY
from tests.gateway.http_client import load, until

MANY = {"model": TINY, "prompt": "The king", "max_tokens": 900, "ignore_eos": True, "n": 12}  # takes seconds on any machine


@pytest.fixture
def triton_address(start_triton: Callable[..., Triton]) -> Iterator[str]:
    with start_triton(TINY, slots=8) as triton:
        yield triton.grpc_address


def served(triton_address: str, log: Path, **environment: str) -> Server:
    """As `make serve TRITON_URL=…` starts it."""
    env = {"TRITON_URL": triton_address, "PORT": PORT, "MODEL_NAME": TINY, "MY_API_KEY": "key"} | environment
    return Server([sys.executable, "-m", "serve"], log, grace=60, env=env)


def begin(url: str) -> Future[httpx.Response]:
    pool = ThreadPoolExecutor(1)
    text = pool.submit(httpx.post, f"{url}/v1/completions", json=MANY, headers={"X-API-Key": "key"}, timeout=90)
    pool.shutdown(wait=False)
    for _ in until(20):
        if sum(load(url)) == MANY["n"]:
            return text
    raise AssertionError(f"{load(url)} texts run and wait")


def test_ctrl_c_waits_for_the_texts_under_way_and_another_one_does_not(triton_address: str, tmp_path: Path) -> None:
    server = served(triton_address, tmp_path / "log", GRACE_PERIOD="60")
    with server:
        text = begin(server.url)
        server.send(signal.SIGINT)
        assert text.result().status_code == 200
        assert server.wait(5) == 0
    with server:
        text = begin(server.url)
        server.send(signal.SIGINT)
        time.sleep(1.2)  # at once after the first, it would be the same press
        assert not text.done()
        server.send(signal.SIGINT)
        assert text.result(5).status_code == 503
        assert server.wait(5) == 0


def test_ctrl_c_with_nothing_to_do_is_quick_whatever_the_grace(triton_address: str, tmp_path: Path) -> None:
    with served(triton_address, tmp_path / "log", GRACE_PERIOD="600") as server:
        began = time.monotonic()
        server.send(signal.SIGINT)
        assert server.wait(5) == 0
        assert time.monotonic() - began < 3
