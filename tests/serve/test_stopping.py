"""`make serve` gives its gateway the time that GRACE_PERIOD gives to texts, and takes none where nothing runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest

from serve.triton_server import TritonServer, free_port
from tests.conftest import ROOT, TINY
from tests.gateway.http_client import load, until

MANY = {"model": TINY, "prompt": "The king", "max_tokens": 900, "ignore_eos": True, "n": 12}  # takes seconds on any machine


@pytest.fixture
def triton_address(start_triton: Callable[..., AbstractContextManager[TritonServer]]) -> Iterator[str]:
    with start_triton(TINY, slots=8) as triton:
        yield triton.grpc_address


@contextmanager
def served(triton_address: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """As `make serve TRITON_URL=…` starts it."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    env = os.environ | {"TRITON_URL": triton_address, "PORT": str(port), "MODEL_NAME": TINY, "MY_API_KEY": "key"} | environment
    process = subprocess.Popen([sys.executable, "-m", "serve"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    try:
        for _ in until(60):
            assert process.poll() is None
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                continue
        yield process, url
    finally:
        process.terminate()
        process.wait(60)


def begin(url: str) -> Future[httpx.Response]:
    pool = ThreadPoolExecutor(1)
    text = pool.submit(httpx.post, f"{url}/v1/completions", json=MANY, headers={"X-API-Key": "key"}, timeout=90)
    pool.shutdown(wait=False)
    for _ in until(20):
        if sum(load(url)) == MANY["n"]:
            return text
    raise AssertionError(f"{load(url)} texts run and wait")


def test_ctrl_c_waits_for_the_texts_under_way_and_another_one_does_not(triton_address: str) -> None:
    with served(triton_address, GRACE_PERIOD="60") as (process, url):
        text = begin(url)
        process.send_signal(signal.SIGINT)
        assert text.result().status_code == 200
        assert process.wait(5) == 0
    with served(triton_address, GRACE_PERIOD="60") as (process, url):
        text = begin(url)
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)  # at once after the first, it would be the same press
        assert not text.done()
        process.send_signal(signal.SIGINT)
        assert text.result(5).status_code == 503
        assert process.wait(5) == 0


def test_ctrl_c_with_nothing_to_do_is_quick_whatever_the_grace(triton_address: str) -> None:
    with served(triton_address, GRACE_PERIOD="600") as (process, _):
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 3
