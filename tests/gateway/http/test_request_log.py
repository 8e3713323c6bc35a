"""Request ids and the log: one line a request, in text or JSON, and nothing in it that is secret."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway import keys
from gateway.app import create_app
from gateway.settings import Settings
from serve.triton_server import TritonServer
from tests.conftest import TINY, gateway_process
from tests.gateway.http.test_disconnect import raw_request
from tests.gateway.http_client import CHAT, client, load, until

NEW_ID = re.compile("req_[0-9a-f]{32}")
PREFLIGHT = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
PROMPT = "a_prompt_that_no_log_may_hold"


class Logged(NamedTuple):
    url: str
    key: str
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """Everything that the process has written; each line must be a JSON object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def line_of(self, request_id: str) -> dict[str, Any]:
        """The one line that the request with this id leaves at its end."""
        for _ in until(5):
            of_request = [line for line in self.lines() if line.get("request_id") == request_id and "status" in line]
            if of_request:
                assert len(of_request) == 1
                return of_request[0]
        raise AssertionError(f"no line of {request_id}:\n{self.log.read_text()}")


@pytest.fixture(scope="module")
def logged(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    directory = tmp_path_factory.mktemp("logged")
    key = keys.create(directory / "keys.json", "alice")
    environment = {"LOG_FORMAT": "json", "API_KEYS_FILE": str(directory / "keys.json"), "MODEL_NAME": TINY}
    with gateway_process(triton.grpc_address, directory / "log", **environment) as url:
        yield Logged(url, key, directory / "log")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/health", {}),
        ("HEAD", "/health", {}),
        ("GET", "/nothing", {}),
        ("GET", "/v1/models", {}),
        ("DELETE", "/generate", {}),
        ("OPTIONS", "/generate", {}),
        ("OPTIONS", "/v1/chat/completions", PREFLIGHT),
        ("GET", "/static/js/main.js", {}),
    ],
)
def test_every_answer_bears_the_request_id_that_came_or_a_new_one(
    logged: Logged, method: str, path: str, headers: dict[str, str]
) -> None:
    given = httpx.request(method, logged.url + path, headers=headers | {"X-Request-Id": "my-id/1"})
    assert given.headers["X-Request-Id"] == "my-id/1"
    made = [httpx.request(method, logged.url + path, headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert all(NEW_ID.fullmatch(one) for one in made) and made[0] != made[1]


FORGED = "x]_status=200_key=admin_["


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        *[("x" * 128, True), ("0a1B-c:d/e.f_g+h@i", True)],
        *[(given, False) for given in ("x" * 129, "a b", "é", "", FORGED, "a=b", 'a"b', "a\\b")],
    ],
)
def test_a_request_id_that_would_spoil_a_log_is_replaced(logged: Logged, given: str, taken: bool) -> None:
    response = httpx.get(f"{logged.url}/livez", headers={"X-Request-Id": given.encode("utf-8")})
    answered = response.headers["X-Request-Id"]
    assert answered == given if taken else NEW_ID.fullmatch(answered)


def test_a_generation_leaves_one_line_that_tells_all_but_the_text(logged: Logged) -> None:
    body = CHAT | {"max_tokens": 5, "ignore_eos": True, "messages": [{"role": "user", "content": PROMPT}]}
    with client(logged.url, logged.key) as http:
        whole = http.post("/v1/chat/completions?x=1", json=body)
        streamed = http.post("/v1/chat/completions", json=body | {"stream": True})
    for response in (whole, streamed):
        line = logged.line_of(response.headers["X-Request-Id"])
        expected = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "key": "alice", "model": TINY}
        assert expected.items() <= line.items()
        assert (line["completion_tokens"], line["finish_reasons"]) == (5, ["length"])
        assert line["prompt_tokens"] == whole.json()["usage"]["prompt_tokens"]
        assert 0 <= line["cached_tokens"] <= line["prompt_tokens"]
        assert 0 < line["time_to_first_token"] < line["duration"] < 30
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert (line["level"], line["logger"]) == ("INFO", "gateway.request")
    assert PROMPT not in logged.log.read_text()


def test_a_refused_request_is_logged_with_what_was_wrong(logged: Logged) -> None:
    with client(logged.url, logged.key) as http:
        unknown = http.post("/v1/chat/completions", json=CHAT | {"model": "gpt-5"}).headers["X-Request-Id"]
        wrong = http.post("/generate", json={"prompt": 5}).headers["X-Request-Id"]
        stranger = httpx.get(f"{logged.url}/v1/models/gpt-5").headers["X-Request-Id"]
        nothing = http.get("/v2/%20a%0Ab").headers["X-Request-Id"]
    assert {"status": 404, "error": "model_not_found", "key": "alice"}.items() <= logged.line_of(unknown).items()
    assert {"status": 400, "error": "invalid_request", "path": "/generate"}.items() <= logged.line_of(wrong).items()
    assert {"status": 401, "path": "/v1/models/{name}"}.items() <= logged.line_of(stranger).items()
    assert "key" not in logged.line_of(stranger)
    assert {"status": 404, "path": "/v2/%20a%0Ab"}.items() <= logged.line_of(nothing).items()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_went_away_is_logged_as_499(logged: Logged, stream: bool) -> None:
    before = len(logged.lines())
    body = CHAT | {"max_tokens": 900, "ignore_eos": True, "stream": stream}
    with raw_request(logged.url, logged.key, body):
        for _ in until(5):
            if load(logged.url)[0]:
                break
    for _ in until(5):
        ended = [line for line in logged.lines()[before:] if line.get("path") == "/v1/chat/completions"]
        if ended:
            break
    assert [line["status"] for line in ended] == [499]
    assert ended[0]["completion_tokens"] < 900 and "finish_reasons" not in ended[0]


def test_probes_are_logged_only_where_they_fail_and_uvicorn_logs_no_request(logged: Logged) -> None:
    for path in ("/health", "/livez", "/readyz", "/metrics"):
        assert httpx.get(logged.url + path).status_code == 200
        refused = httpx.post(logged.url + path, headers={"X-Request-Id": f"post{path}"})
        assert refused.status_code == 405 and logged.line_of(f"post{path}")["status"] == 405
        assert not [line for line in logged.lines() if line.get("path") == path and line["status"] == 200]
    assert "uvicorn.access" not in {line["logger"] for line in logged.lines()}


def test_files_of_the_pages_are_logged_only_where_they_fail(logged: Logged) -> None:
    for path in ("/static/js/main.js", "/docs/swagger-ui.css"):
        assert httpx.get(logged.url + path, headers={"X-Request-Id": "file"}).status_code == 200
    assert httpx.get(f"{logged.url}/static/no=file", headers={"X-Request-Id": "no-file"}).status_code == 404
    assert {"status": 404, "path": "/static/no%3Dfile"}.items() <= logged.line_of("no-file").items()
    assert not [line for line in logged.lines() if line.get("request_id") == "file"]


def test_a_key_is_in_no_log_no_metric_and_no_error(logged: Logged) -> None:
    wrong = "tg-a_wrong_key_that_may_be_a_right_one_elsewhere"
    texts = []
    with client(logged.url) as http:
        for key in (logged.key, wrong):
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": key}):
                for path, body in (("/generate", {"prompt": "x", "max_length": 1}), ("/v1/chat/completions", {"model": 1})):
                    texts.append(http.post(f"{path}?key={key}", headers=headers, json=body).text)
                texts.append(http.get(f"/v1/models?api_key={key}", headers=headers).text)
        texts += [http.get("/metrics").text, http.get("/health").text, logged.log.read_text()]
    assert len(logged.lines()) > 12
    for text in texts:
        assert logged.key not in text and wrong not in text
        assert logged.key.removeprefix("tg-") not in text


def test_text_is_the_default_and_has_the_same_fields(triton: TritonServer, tmp_path: Path, api_key: str) -> None:
    log = tmp_path / "log"
    with gateway_process(triton.grpc_address, log, MODEL_NAME=TINY) as url, client(url, api_key) as http:
        body = {"prompt": PROMPT, "max_length": 3, "temperature": 0}
        assert http.post("/generate", json=body, headers={"X-Request-Id": "my-id"}).status_code == 200
        for _ in until(5):
            if "my-id" in log.read_text():
                break
    (line,) = [line for line in log.read_text().splitlines() if "my-id" in line]
    assert re.fullmatch(
        r"\S+Z INFO gateway\.request \[my-id\] method=POST path=/generate status=200 key=default model=tiny-gpt2 "
        r"prompt_tokens=\d+ cached_tokens=\d+ completion_tokens=\d time_to_first_token=\S+ duration=\S+ finish_reasons=\w+",
        line,
    )
    assert api_key not in log.read_text() and PROMPT not in log.read_text()


def test_nothing_that_a_client_sends_forges_a_field_of_a_line(triton: TritonServer, tmp_path: Path, api_key: str) -> None:
    """Its id, its path, its method, its model: a reader that looks for name=value finds what happened, once."""
    log, field = tmp_path / "log", "status=200 key=admin"
    with gateway_process(triton.grpc_address, log, MODEL_NAME=TINY) as url, client(url, api_key) as http:
        http.get(f"/nothing {field}", headers={"X-Request-Id": FORGED})
        http.get("/nothing%0Astatus=200")
        http.get("/v1/models/status=200")
        http.post("/v1/completions", json={"model": field, "prompt": "x"})
        http.request("STATUS|200" + "X" * 1000, "/nothing", headers={"User-Agent": field, "traceparent": field})
        lines = [line for _ in until(1) for line in log.read_text().splitlines() if "gateway.request" in line][-5:]
    assert len(lines) == 5
    for line in lines:
        assert re.findall(r"\bstatus=(\w+)", line) in (["404"], ["400"]) and "admin" not in line.replace("%20key%3Dadmin", "")
        assert len(line) < 400 and not re.search(r"\bkey=(?!default)", line)


def test_of_a_start_and_a_stop_the_log_has_one_line_that_says_where_the_gateway_listens(
    triton: TritonServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with gateway_process(triton.grpc_address, log, LOG_FORMAT="json") as url:
        assert httpx.get(f"{url}/nothing").status_code == 404
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len([line for line in lines if line.get("path") == "/nothing" and line["status"] == 404]) == 1
    (listening,) = [line["message"] for line in lines if line["logger"] == "gateway" and line["level"] == "INFO"]
    assert listening == f"Listening on {url}"
    assert not any(line["logger"].startswith("uvicorn") for line in lines)


@pytest.fixture
def no_log_handler() -> Iterator[None]:
    """Takes away what `create_app` adds to the process's logging: its stream ends with the test."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == "tidegate"]:
        root.removeHandler(handler)


@pytest.mark.usefixtures("no_log_handler")
def test_an_unexpected_error_tells_nothing_but_has_its_id_and_may_be_read_by_a_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = create_app(Settings(log_format="json", cors_origins=("https://chat.example",)))

    @app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter2")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.get("/v1/broken", headers={"X-Request-Id": "my-id", "Origin": "https://chat.example"})

    response = asyncio.run(ask())
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "hunter2" not in response.text
    assert response.headers["X-Request-Id"] == "my-id"
    assert response.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    error, request = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert error["request_id"] == request["request_id"] == "my-id"
    assert "hunter2" in error["exception"] and error["level"] == "ERROR"
    assert (request["path"], request["status"]) == ("/v1/broken", 500)
