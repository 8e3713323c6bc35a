"""Limits of a key: what is refused, when to come again, and that nothing is held for longer than it is used."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway import keys
from gateway.errors import RateLimited
from gateway.http.rate_limits import KeyLimits, Usage, duration
from gateway.keys import ApiKey
from serve.triton_server import TritonServer
from tests.conftest import TINY, gateway_process
from tests.gateway.http.test_disconnect import raw_request
from tests.gateway.http_client import CHAT, client, load, until

MODEL = {"model": TINY, "temperature": 0}
LONG = CHAT | MODEL | {"max_tokens": 900, "ignore_eos": True}


def limits(usage: Usage | None = None, **of_key: int) -> KeyLimits:
    return KeyLimits(ApiKey(name="alice", sha256="0" * 64, **of_key), usage or Usage())


def refused(of: KeyLimits, prompt_tokens: int = 1, max_tokens: int = 1) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        of.reserve(prompt_tokens, max_tokens)
    return caught.value


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.0196, "20ms"), (0.999, "999ms"), (0.9995, "1s"), (1, "1s"), (59.1, "1m0s"), (360, "6m0s"), (83.2, "1m24s")],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_a_minutes_requests_may_come_at_once_and_then_as_they_fill_up() -> None:
    usage = Usage()
    of = limits(usage, requests_per_minute=600)  # one more every 100 ms
    for _ in range(600):
        of.begin_request()
    with pytest.raises(RateLimited) as caught:
        of.begin_request()
    assert (caught.value.limit, caught.value.retry_after) == ("requests_per_minute", 1)
    assert "600 requests a minute" in caught.value.message and "'alice'" in caught.value.message
    time.sleep(0.11)
    of.begin_request()


def test_tokens_that_were_not_used_are_given_back() -> None:
    of = limits(tokens_per_minute=1000)
    reservation = of.reserve(100, 800)
    assert int(of.headers()["x-ratelimit-remaining-tokens"]) in (100, 101)
    error = refused(of, 100, 100)
    assert error.limit == "tokens_per_minute" and error.retry_after == 6  # 100 tokens are missing, 16.7 come a second
    assert "200" in error.message and "1000 tokens a minute" in error.message
    reservation.settle(150)
    assert int(of.headers()["x-ratelimit-remaining-tokens"]) in (850, 851)


def test_an_answer_without_a_limit_reserves_an_estimate_and_costs_what_it_took() -> None:
    of = limits(tokens_per_minute=1000)
    short, long = of.reserve(100, 256, estimated=True), of.reserve(100, 256, estimated=True)
    assert int(of.headers()["x-ratelimit-remaining-tokens"]) in (288, 289)
    short.settle(120)
    long.settle(1900)  # more than a minute's worth: later requests wait for it
    assert refused(of, 1, 1).retry_after in (61, 62)  # 1022 tokens too many, 16.7 are forgotten a second
    assert limits(tokens_per_minute=100).reserve(60, 256, estimated=True)
    assert "can never fit" in refused(limits(tokens_per_minute=100), 100, 1).message


def test_what_has_filled_up_meanwhile_is_not_given_back_twice() -> None:
    usage = Usage()
    of = limits(usage, tokens_per_minute=6000)  # 100 a second
    first = of.reserve(0, 60)
    time.sleep(0.7)  # all 60 are forgotten
    of.reserve(0, 6000).settle(6000)
    first.settle(0)
    assert int(of.headers()["x-ratelimit-remaining-tokens"]) < 10


def test_a_request_that_can_never_fit_is_told_so_and_not_to_come_again() -> None:
    error = refused(limits(tokens_per_minute=100), 60, 41)
    assert error.retry_after is None and error.headers == {"x-should-retry": "false"}
    assert "can never fit" in error.message and "101" in error.message and "again" not in error.message


def test_requests_at_once_are_limited_and_end_once() -> None:
    usage = Usage()
    requests = [limits(usage, concurrent_requests=2, requests_per_minute=10) for _ in range(3)]
    for running in requests[:2]:
        running.begin_request()
    with pytest.raises(RateLimited) as caught:
        requests[2].begin_request()
    assert caught.value.limit == "concurrent_requests"
    requests[2].end_request()  # it never began
    assert usage.running == 2
    for _ in range(2):
        requests[0].end_request()
    requests[2].begin_request()
    assert usage.running == 2 and int(requests[0].headers()["x-ratelimit-remaining-requests"]) == 7


def test_a_request_refused_for_its_tokens_is_no_request_of_the_minute() -> None:
    of = limits(requests_per_minute=2, tokens_per_minute=10)
    for _ in range(5):
        of.begin_request()
        refused(of, 5, 6)
    assert of.headers()["x-ratelimit-remaining-requests"] == "2"


def test_what_was_used_stays_used_when_a_limit_changes() -> None:
    usage = Usage()
    limits(usage, tokens_per_minute=1000).reserve(0, 600).settle(600)
    assert int(limits(usage, tokens_per_minute=700).headers()["x-ratelimit-remaining-tokens"]) in (100, 101)
    assert limits(usage).headers() == {}


@pytest.fixture(scope="module")
def limited(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A gateway's address and its keys by name."""
    directory = tmp_path_factory.mktemp("limited")
    file = directory / "keys.json"
    given = {
        "requests": keys.create(file, "requests", requests_per_minute=3),
        "invalid": keys.create(file, "invalid", requests_per_minute=3),
        "tokens": keys.create(file, "tokens", tokens_per_minute=1000),
        "unused": keys.create(file, "unused", tokens_per_minute=1000),
        "small": keys.create(file, "small", tokens_per_minute=10),
        "one": keys.create(file, "one", concurrent_requests=1),
        "free": keys.create(file, "free"),
        "reload": keys.create(file, "reload", requests_per_minute=2),
    }
    with gateway_process(
        triton.grpc_address, directory / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), RUN_AHEAD="off"
    ) as url:
        yield url, given | {"file": str(file)}


def chat(url: str, key: str, **fields: Any) -> httpx.Response:
    with client(url, key) as http:
        return http.post("/v1/chat/completions", json=CHAT | MODEL | fields)


def test_too_many_requests_are_429_with_everything_a_client_reads(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    for left in (2, 1, 0):
        response = chat(url, given["requests"])
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-requests"] == "3"
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        assert response.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in response.headers
    refusal = chat(url, given["requests"])
    assert refusal.status_code == 429 and 1 <= int(refusal.headers["Retry-After"]) <= 20
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    error = refusal.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert f"again in {refusal.headers['Retry-After']}s" in error["message"]
    assert given["requests"] not in refusal.text
    envelope = httpx.post(f"{url}/generate", headers={"X-API-Key": given["requests"]}, json={"prompt": "Hello"})
    assert (envelope.status_code, envelope.json()["error"]["type"]) == (429, "rate_limit_error")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=given["requests"], max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as raised:
            sdk.chat.completions.create(model=TINY, messages=CHAT["messages"])
        assert raised.value.code == "rate_limit_exceeded"
        assert sdk.models.list().data  # reading is not limited


def test_an_invalid_request_counts_as_a_request(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    for _ in range(3):
        response = chat(url, given["invalid"], temperature=3)
        assert response.status_code == 400 and "x-ratelimit-remaining-requests" in response.headers
    assert chat(url, given["invalid"], temperature=3).status_code == 429


def test_tokens_are_limited_by_what_was_really_used(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    response = chat(url, given["unused"], max_tokens=900, stop=["a", "e", " ", "o"])
    usage = response.json()["usage"]
    assert usage["completion_tokens"] < 900  # else nothing is given back
    left = int(response.headers["x-ratelimit-remaining-tokens"])
    assert 0 <= left - (1000 - usage["total_tokens"]) < 100  # some have come since
    assert response.headers["x-ratelimit-limit-tokens"] == "1000"


def test_too_many_tokens_are_429(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    whole = chat(url, given["tokens"], max_tokens=800, ignore_eos=True)
    assert whole.status_code == 200 and whole.json()["usage"]["completion_tokens"] == 800
    refusal = chat(url, given["tokens"], max_tokens=800)
    assert refusal.status_code == 429
    assert 1 <= int(refusal.headers["Retry-After"]) <= 48
    assert "1000 tokens a minute" in refusal.json()["error"]["message"]
    assert refusal.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert int(refusal.headers["x-ratelimit-remaining-tokens"]) < 800


def test_more_tokens_than_a_minute_has_are_429_and_no_sdk_tries_again(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    began = time.monotonic()
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=given["small"], max_retries=5) as sdk,
        pytest.raises(openai.RateLimitError, match="can never fit") as raised,
    ):
        sdk.chat.completions.create(model=TINY, messages=CHAT["messages"], max_tokens=100)
    assert "Retry-After" not in raised.value.response.headers
    assert time.monotonic() - began < 5


@pytest.mark.alone  # its text takes a fraction of a second
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(limited: tuple[str, dict[str, str]], stream: bool) -> None:
    url, given = limited
    with raw_request(url, given["one"], LONG | {"stream": stream}) as connection:
        _wait_running(url, connection, stream)
        refusal = chat(url, given["one"])
        assert refusal.status_code == 429 and refusal.headers["Retry-After"] == "1"
        assert "1 at once" in refusal.json()["error"]["message"]
        assert chat(url, given["free"]).status_code == 200
    for _ in until(3):
        if chat(url, given["one"]).status_code == 200:
            return
    raise AssertionError("its place is still held")


def _wait_running(url: str, connection: socket.socket, stream: bool) -> None:
    if stream:
        assert connection.recv(12) == b"HTTP/1.1 200"
        return
    for _ in until(5):
        if load(url)[0]:
            return
    raise AssertionError("it does not run")


def test_requests_at_once_get_no_more_than_the_limit(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": given["one"]}, timeout=60) as http:
            body = CHAT | MODEL | {"max_tokens": 200, "ignore_eos": True}
            answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(6)))
            return sorted(answer.status_code for answer in answers)

    assert asyncio.run(all_at_once()) == [200] + [429] * 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/detokenize"])
def test_an_upload_takes_its_place_before_its_body_has_come(limited: tuple[str, dict[str, str]], path: str) -> None:
    url, given = limited
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {given['one']}\r\nContent-Length: 100\r\n\r\n{{"
    with socket.create_connection((host, int(port)), timeout=20) as uploading:
        uploading.sendall(head.encode())
        for _ in until(3):
            if chat(url, given["one"]).status_code == 429:
                break
        with client(url, given["one"]) as http:
            for refused_path in ("/tokenize", "/detokenize"):
                assert "1 at once" in http.post(refused_path, json={"tokens": [1]}).json()["error"]["message"]
            assert http.get("/v1/models").status_code == 200  # reading is not limited
    for _ in until(3):
        if chat(url, given["one"]).status_code == 200:
            return
    raise AssertionError("its place is still held")


def test_a_key_without_limits_gets_no_headers_of_them(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    response = chat(url, given["free"])
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_a_file_that_is_read_again_gives_no_new_minute(limited: tuple[str, dict[str, str]]) -> None:
    url, given = limited
    assert [chat(url, given["reload"]).status_code for _ in range(3)] == [200, 200, 429]
    added = keys.create(Path(given["file"]), "added")
    for _ in until(3):
        if chat(url, added).status_code == 200:
            break
    assert chat(url, given["reload"]).status_code == 429
