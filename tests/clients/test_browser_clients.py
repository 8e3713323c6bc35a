"""What web front ends do first: Open WebUI, LobeChat, and pages that call from a browser."""

import httpx
import pytest

from tests.gateway.http_client import events

ORIGIN = "https://chat.example.org"


def test_a_front_end_lists_the_models_then_streams(gateway_url: str, api_key: str) -> None:
    with httpx.Client(base_url=f"{gateway_url}/v1", headers={"Authorization": f"Bearer {api_key}"}, timeout=60) as http:
        assert http.get("/models").status_code == 200
        name = http.get("/models").json()["data"][0]["id"]
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 4}
        response = http.post("/chat/completions", json=body | {"stream_options": {"include_usage": True}})
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    assert events(response)[-1]["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("path", "method"),
    [("/v1/models", "GET"), ("/v1/chat/completions", "POST"), ("/v1/responses", "POST"), ("/generate", "POST")],
)
def test_a_browser_may_ask_from_another_origin(tiny_gateway_url: str, path: str, method: str) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
    headers["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    response = httpx.options(tiny_gateway_url + path, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] in ("*", ORIGIN)
    assert method in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "x-stainless-lang")) or allowed == "*"


@pytest.mark.parametrize("key", ["right", "wrong"])
def test_a_browser_may_read_the_answer_its_error_and_its_headers(tiny_gateway_url: str, api_key: str, key: str) -> None:
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {api_key if key == 'right' else 'wrong'}"}
    response = httpx.get(f"{tiny_gateway_url}/v1/models", headers=headers)
    assert response.status_code == (200 if key == "right" else 401)
    assert response.headers["access-control-allow-origin"] in ("*", ORIGIN)
    exposed = response.headers["access-control-expose-headers"].lower()
    assert all(name in exposed for name in ("retry-after", "x-request-id", "x-ratelimit-remaining-requests"))
