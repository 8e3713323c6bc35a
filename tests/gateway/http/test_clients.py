"""The habits of clients and proxies: HTTP/1.0, chunks, bodies that wait to be asked for, compression, slashes too many."""

import gzip
import re
import select
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest

from gateway import keys
from gateway.errors import Overloaded
from gateway.http import uploads
from gateway.http.body import MAXIMUM_BODY
from gateway.http.error_responses import PATHS
from scripts.api_routes import ENDPOINTS
from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.gateway.http_client import client, until

BODY = b'{"prompt": "The king", "max_length": 5, "temperature": 0, "ignore_eos": true}'
UPLOAD = 24 * MAXIMUM_BODY
WAITING = 900  # uploads
STREAM = BODY.replace(b'"max', b'"stream": true, "max')


def exchange(url: str, *sent: bytes) -> tuple[str, bytes]:
    """The head and the body of an answer that ends with its connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for piece in sent:
            connection.sendall(piece)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def head(key: str, version: str, *fields: str) -> bytes:
    return "\r\n".join([f"POST /generate HTTP/{version}", "Host: x", f"X-API-Key: {key}", *fields, "", ""]).encode()


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
def test_an_http_1_0_client_gets_no_chunks(tiny_gateway_url: str, api_key: str, body: bytes) -> None:
    told, answer = exchange(tiny_gateway_url, head(api_key, "1.0", f"Content-Length: {len(body)}") + body)
    modern = httpx.post(f"{tiny_gateway_url}/generate", content=body, headers={"X-API-Key": api_key})
    assert told.startswith("http/1.1 200") and "transfer-encoding" not in told and "connection: close" in told
    assert answer == modern.content and ("content-length" in told) == (body is BODY)


def test_an_http_1_0_client_gets_every_page_and_may_not_send_chunks(tiny_gateway_url: str, api_key: str) -> None:
    for path in ("/", "/static/js/main.js", "/metrics", "/openapi.json", "/nothing"):
        told, body = exchange(tiny_gateway_url, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert "transfer-encoding" not in told and body
    told, _ = exchange(tiny_gateway_url, f"HEAD / HTTP/1.0\r\nX-API-Key: {api_key}\r\n\r\n".encode())
    assert told.startswith("http/1.1 200")
    chunked = head(api_key, "1.0", "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert exchange(tiny_gateway_url, chunked)[0].startswith("http/1.1 400")


def test_a_refused_upload_of_an_http_1_0_client_is_answered(tiny_gateway_url: str, api_key: str) -> None:
    """Its connection is closed, but not while bytes that nobody reads would destroy the answer, or fail the client that sends
    all of them before it reads: more than what the system's buffers hold."""
    too_large = head(api_key, "1.0", f"Content-Length: {UPLOAD}")
    for key, status in ((api_key, "413"), ("wrong", "401")):
        sent = too_large.replace(api_key.encode(), key.encode())
        assert exchange(tiny_gateway_url, sent, b" " * UPLOAD)[0].startswith(f"http/1.1 {status}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "options",
    [
        ["--http1.0", "--data-binary", "@-"],
        ["-T", "-", "-X", "POST"],
        ["--data-binary", "@-", "-H", "Transfer-Encoding: chunked"],
        ["--data-binary", "@-", "-H", "Expect: 100-continue"],
        ["--data-binary", "@-", "--http2"],
    ],
    ids=["HTTP/1.0", "-T -", "chunks", "100-continue", "an offer of HTTP/2"],
)
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
def test_curl_gets_its_answer_in_each_of_its_ways(tiny_gateway_url: str, api_key: str, options: list[str], body: bytes) -> None:
    fields = ["-H", f"X-API-Key: {api_key}", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        ["curl", "-sSN", "--max-time", "20", *fields, *options, f"{tiny_gateway_url}/generate"], input=body, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == httpx.post(f"{tiny_gateway_url}/generate", content=body, headers={"X-API-Key": api_key}).content


def test_a_body_is_asked_for_only_where_it_is_wanted(tiny_gateway_url: str, api_key: str) -> None:
    """Whether a refused client sends its body all the same is up to it: nothing on that connection is read any more."""
    fields = ("Expect: 100-continue", f"Content-Length: {len(BODY)}")
    told, _ = exchange(tiny_gateway_url, head("wrong", "1.1", *fields))
    assert told.startswith("http/1.1 401") and "connection: close" in told
    told, answer = exchange(tiny_gateway_url, head(api_key, "1.1", *fields, "Connection: close"), BODY)
    assert told.startswith("http/1.1 100") and answer.startswith(b"HTTP/1.1 200")


def test_the_target_of_a_request_may_name_the_server(tiny_gateway_url: str) -> None:
    for target, status in (("http://gateway:8000/livez?x=1", 200), ("HTTP://gateway", 200), ("*", 400), ("livez", 400)):
        told, _ = exchange(tiny_gateway_url, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert told.startswith(f"http/1.1 {status}"), target


def test_a_compressed_body_is_415_and_names_the_encoding(tiny_gateway_url: str, api_key: str) -> None:
    with client(tiny_gateway_url, api_key) as http:
        for encoding in ("gzip", "br", "deflate, gzip", "identity, gzip"):
            fields = [("Content-Encoding", coding) for coding in encoding.split(", ")]
            answer = http.post("/v1/completions", content=gzip.compress(BODY), headers=fields)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (415, "unsupported_encoding")
            assert encoding in error["message"] and answer.headers["Accept-Encoding"] == "identity"
        assert http.post("/generate", content=BODY, headers={"Content-Encoding": "identity"}).status_code == 200


@pytest.mark.parametrize(
    ("kind", "status", "named"),
    [
        ("application/x-www-form-urlencoded", 400, "-H 'Content-Type: application/json'"),
        ("multipart/form-data; boundary=x", 400, "-H 'Content-Type: application/json'"),
        ("text/plain", 400, "must be application/json"),
        ("application/json; charset=utf-16", 400, "utf-16"),
        ("application/json; charset=UTF-8", 200, ""),
        ("application/problem+json", 200, ""),
        ('application/json; charset="utf-8"; x', 200, ""),
    ],
)
def test_a_body_of_another_type_is_refused_with_what_to_send(
    tiny_gateway_url: str, api_key: str, kind: str, status: int, named: str
) -> None:
    with client(tiny_gateway_url, api_key) as http:
        answer = http.post("/generate", content=BODY, headers={"Content-Type": kind})
    assert answer.status_code == status and named in answer.text


def test_a_byte_order_mark_changes_nothing(tiny_gateway_url: str, api_key: str) -> None:
    with client(tiny_gateway_url, api_key) as http:
        assert http.post("/generate", content=b"\xef\xbb\xbf" + BODY).json() == http.post("/generate", content=BODY).json()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("//v1/models", "/v1/models"),
        ("/v1//chat/completions/", "/v1/chat/completions"),
        ("/v1/models/", "/v1/models"),
        ("/v1/", "/v1"),
        ("/generate/", "/generate"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/models/tiny-gpt2/", "/v1/models/tiny-gpt2"),
        ("//v1/models/tiny-gpt2", "/v1/models/tiny-gpt2"),
        ("/models/tiny-gpt2", "/v1/models/tiny-gpt2"),
        ("/v1/nothing/", None),
        ("/nothing", None),
    ],
)
def test_a_path_that_is_nearly_right_is_404_with_the_right_one(
    tiny_gateway_url: str, api_key: str, path: str, meant: str | None
) -> None:
    with client(tiny_gateway_url, api_key) as http:
        answer = http.get(path if not path.startswith("//") else f"{tiny_gateway_url}{path}")
    assert answer.status_code == 404
    hint = f" Did you mean {meant}?" if meant else ""
    assert answer.json()["error"]["message"] == f"There is nothing at this path.{hint}"
    assert ("code" in answer.json()["error"]) == path.lstrip("/").startswith("v1")  # OpenAI's envelope


def test_a_file_comes_whole_whatever_range_is_asked_for(tiny_gateway_url: str) -> None:
    for path in ("/", "/docs", "/docs/swagger-ui.css", "/static/js/main.js"):
        whole = httpx.get(f"{tiny_gateway_url}{path}")
        for wanted in ("bytes=zz", "bytes=0-4", "bytes=99999999-", "lines=1-2"):
            answer = httpx.get(f"{tiny_gateway_url}{path}", headers={"Range": wanted})
            assert (answer.status_code, answer.content, answer.headers["Accept-Ranges"]) == (200, whole.content, "none")


def test_every_path_that_may_be_meant_exists() -> None:
    assert {path for path in ENDPOINTS if "{" not in path} - {"/"} == PATHS


def test_a_public_page_may_ask_a_gateway_in_its_visitors_network(tiny_gateway_url: str) -> None:
    preflight = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = httpx.options(f"{tiny_gateway_url}/v1/chat/completions", headers=preflight)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Private-Network"]) == (200, "true")


def test_keys_that_hold_what_they_may_leave_room_for_one_more() -> None:
    """Nothing is held by a length that is only said."""
    held, body = uploads.Uploads(), 1 << 20
    with ExitStack() as open_bodies:
        for key in ("a", "b", "c"):
            with pytest.raises(Overloaded):
                while True:
                    open_bodies.enter_context(held.begin(key))(body)
        for _ in range(2):
            hold = open_bodies.enter_context(held.begin("one more"))
            hold(uploads.SMALL + 1)
            hold(body)
        with pytest.raises(Overloaded):
            open_bodies.enter_context(held.begin("a"))(uploads.SMALL + 1)
        open_bodies.enter_context(held.begin("a"))(uploads.SMALL)
    with held.begin("a") as hold:
        hold(uploads.MOST_OF_A_KEY)  # all is given back
        with pytest.raises(Overloaded):
            hold(uploads.MOST_OF_A_KEY + 1)


@pytest.mark.slow
def test_uploads_that_say_a_length_and_send_nothing_hold_up_no_other_key(triton: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first, second, other = (keys.create(file, name) for name in ("first", "second", "other"))
    with (
        Gateway(triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), RUN_AHEAD="off") as gateway,
        ExitStack() as many,
    ):
        for key in (first, second) * 40:
            many.enter_context(gateway.connect()).sendall(head(key, "1.1", f"Content-Length: {MAXIMUM_BODY}"))
        body = BODY.replace(b"The king", b"a " * 5 * uploads.SMALL)
        answer = httpx.post(f"{gateway.url}/generate", content=body, headers={"X-API-Key": other}, timeout=20)
        assert answer.status_code == 400 and "prompt" in answer.text  # it was read, and is too long


def test_uploads_that_pause_hold_little_and_hold_up_nobody(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], tmp_path: Path
) -> None:
    """Each is one byte short of its end; what they may hold is bounded, the rest is 429, and another key does not notice."""
    whole = b'{"prompt": "' + b"a" * (MAXIMUM_BODY - 100) + b'"}'
    file = tmp_path / "keys.json"
    slow, other, single = (
        keys.create(file, "slow"),
        keys.create(file, "other"),
        keys.create(file, "single", concurrent_requests=1),
    )
    begun = head(slow, "1.1", f"Content-Length: {len(whole)}") + whole[:-1]
    settings = {"MODEL_NAME": TINY, "API_KEYS_FILE": str(file)}
    with (
        start_triton(TINY, slots=2) as triton,
        Gateway(triton.grpc_address, tmp_path / "log", **settings, RUN_AHEAD="off") as gateway,
        ExitStack() as many,
    ):

        def post(key: str, body: bytes) -> httpx.Response:
            return httpx.post(f"{gateway.url}/generate", content=body, headers={"X-API-Key": key})

        assert post(slow, BODY).status_code == 200
        before = gateway.memory()
        connections = [many.enter_context(gateway.connect()) for _ in range(WAITING)]
        for connection in connections:
            connection.sendall(begun)
        for _ in until(5):
            answered = select.select(connections, [], [], 0)[0]
            if len(answered) >= WAITING - (uploads.MOST_OF_A_KEY >> 20):
                break
        for connection in answered:
            assert re.match(rb"HTTP/1.1 429 (?s:.)*\r\nretry-after: 1\r\n", connection.recv(65536))
        for key, body in ((slow, BODY), (other, BODY), (other, whole.replace(b"prompt", b"x"))):
            answer = post(key, body)
            assert answer.status_code == (200 if body is BODY else 400) and answer.elapsed.total_seconds() < 2
        assert gateway.memory() - before < 150 << 20  # 32 MiB, and what each connection has read before it is refused
        assert WAITING - (uploads.MOST_OF_A_KEY >> 20) <= len(answered) < WAITING
        many.enter_context(gateway.connect()).sendall(begun.replace(slow.encode(), single.encode()))
        refused = post(single, BODY)
        assert refused.status_code == 429 and "1 at once" in refused.json()["error"]["message"]
    assert "Traceback" not in (tmp_path / "log").read_text()
