"""Keys, unknown paths and methods, CORS: what a client meets before its request is read."""

import re
import socket
from pathlib import Path

import httpx
import pytest

from serve.triton_server import TritonServer
from tests.conftest import gateway_process
from tests.gateway.http_client import client

PROTECTED = [
    ("POST", "/generate"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/latest_checkpoint.pt"),
]
GENERATE_UNAUTHORIZED = {
    "status": "error",
    "error": {"type": "auth_error", "message": "Unauthorized. Invalid or missing API Key."},
}
OPENAI_UNAUTHORIZED = {
    "error": {
        "message": "Unauthorized. Invalid or missing API Key.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
}


def refused_headers(key: str) -> list[dict[str, str]]:
    return [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": key + "x"},
        {"X-API-Key": key[:-1]},
        {"X-API-Key": key.upper()},
        {"Authorization": key},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {key}"},
        {"X-API-Key": "é"},
    ]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_a_wrong_key_is_refused_in_the_envelope_of_its_family(gateway_url: str, api_key: str, method: str, path: str) -> None:
    with client(gateway_url) as http:
        for headers in refused_headers(api_key):
            raw = {name: value.encode("utf-8") for name, value in headers.items()}
            response = http.request(method, path, headers=raw, content=b"{")  # the key comes before the body
            assert response.status_code == 401, headers
            assert response.json() == (OPENAI_UNAUTHORIZED if path.startswith("/v1") else GENERATE_UNAUTHORIZED)
            assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_the_key_is_taken_from_either_header(gateway_url: str, api_key: str, method: str, path: str) -> None:
    accepted = [
        {"X-API-Key": api_key},
        {"x-api-key": api_key},
        {"Authorization": f"Bearer {api_key}"},
        {"authorization": f"bearer {api_key}"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {api_key}"},
    ]
    with client(gateway_url) as http:
        for headers in accepted:
            status = http.request(method, path, headers=headers).status_code
            assert status == (400 if method == "POST" else 200), headers  # 400: the body is missing


def test_what_needs_no_key_answers_without_one(gateway_url: str) -> None:
    with client(gateway_url) as http:
        for path in ("/", "/health", "/livez", "/readyz", "/metrics", "/static/js/main.js", "/static/css/base.css"):
            assert http.get(path).status_code == 200
            head = http.head(path)
            assert head.status_code == 200 and head.content == b""


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/static/nothing", "/generate/x", "/v1x"])
def test_an_unknown_path_is_404_in_the_envelope_of_its_family(gateway_url: str, path: str) -> None:
    response = httpx.get(gateway_url + path)
    assert response.status_code == 404
    body = response.json()
    if path.startswith("/v1/"):
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "not_found")
    else:
        assert body == {"status": "error", "error": {"type": "invalid_request", "message": "There is nothing at this path."}}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_ones(gateway_url: str, method: str, path: str, allowed: str) -> None:
    response = httpx.request(method, gateway_url + path)
    assert response.status_code == 405
    assert sorted(re.split(", ?", response.headers["Allow"])) == sorted(allowed.split(", "))
    assert method in response.json()["error"]["message"]


def test_options_says_what_is_allowed(gateway_url: str) -> None:
    response = httpx.options(f"{gateway_url}/generate")
    assert response.status_code == 204
    assert response.headers["Allow"] == "POST, OPTIONS"


def test_a_page_of_another_origin_may_ask(gateway_url: str) -> None:
    preflight = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-stainless-lang",
    }
    allowed = httpx.options(f"{gateway_url}/v1/chat/completions", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "*"
    assert "x-stainless-lang" in allowed.headers["Access-Control-Allow-Headers"]
    refused = httpx.get(f"{gateway_url}/v1/models", headers={"Origin": "https://chat.example"})
    assert refused.status_code == 401 and refused.headers["Access-Control-Allow-Origin"] == "*"


def test_a_page_may_read_what_tells_a_client_when_to_come_again(gateway_url: str) -> None:
    response = httpx.get(f"{gateway_url}/v1/models", headers={"Origin": "https://chat.example"})
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"X-Request-Id", "Retry-After", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests"} <= set(exposed)


def test_only_pages_of_the_origins_that_are_named_may_ask(triton: TritonServer, tmp_path: Path) -> None:
    good, other = "https://chat.example", "https://other.example"
    with gateway_process(triton.grpc_address, tmp_path / "log", CORS_ORIGINS=f"{good},http://localhost:3000") as url:
        answered = httpx.get(f"{url}/v1/models", headers={"Origin": good})
        assert answered.headers["Access-Control-Allow-Origin"] == good and "Origin" in answered.headers["Vary"]
        assert "Access-Control-Allow-Origin" not in httpx.get(f"{url}/v1/models", headers={"Origin": other}).headers
        for origin, status in ((good, 200), (other, 400)):
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            assert httpx.options(f"{url}/generate", headers=preflight).status_code == status


def test_with_cors_switched_off_no_page_of_another_origin_may_ask(triton: TritonServer, tmp_path: Path) -> None:
    with gateway_process(triton.grpc_address, tmp_path / "log", CORS_ORIGINS="none") as url:
        preflight = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
        for response in (httpx.options(f"{url}/generate", headers=preflight), httpx.get(f"{url}/v1", headers=preflight)):
            assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_models_are_listed_and_found_by_name_and_alias(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        listed = http.get("/v1/models").json()
        assert listed["object"] == "list" and listed["data"]
        for model in listed["data"]:
            assert model["object"] == "model" and model["owned_by"] == "tidegate"
            assert isinstance(model["created"], int) and model["context_length"] > 0
            assert http.get(f"/v1/models/{model['id']}").json() == model
        about = http.get("/v1").json()
        default = http.get("/v1/models/latest_checkpoint.pt").json()
        assert default["id"] == about["default_model"]
        assert default in listed["data"]


@pytest.mark.parametrize("name", ["nothing", "latest_checkpoint.pt/x", "a%2Fb", "%00"])
def test_an_unknown_model_is_404_and_the_message_names_those_there_are(gateway_url: str, api_key: str, name: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.get(f"/v1/models/{name}")
        default = http.get("/v1").json()["default_model"]
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert default in error["message"]


def test_health_tells_the_load_and_nothing_secret(gateway_url: str, api_key: str) -> None:
    body = httpx.get(f"{gateway_url}/health", timeout=10).json()
    assert body["status"] == "success"
    for load in body["data"]["models"].values():
        assert load.keys() == {"version", "precision", "devices", "running", "waiting", "older"}
    assert api_key not in str(body)


def test_the_page_and_its_files_are_confined(gateway_url: str) -> None:
    for path in ("/", "/static/js/main.js", "/static/css/base.css"):
        headers = httpx.get(gateway_url + path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-cache"


def test_no_path_leads_out_of_the_static_folder(gateway_url: str) -> None:
    host, port = gateway_url.removeprefix("http://").split(":")
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
        assert b"create_app" not in answer
