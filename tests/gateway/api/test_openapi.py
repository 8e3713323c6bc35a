"""The OpenAPI document says what the routes do; the page that shows it loads nothing from elsewhere."""

import json
import shutil
from typing import Any

import jsonschema
import pytest

from gateway.api.openapi import document
from gateway.api.schemas import SamplingBody
from gateway.app import create_app
from gateway.settings import Settings
from tests.gateway.http_client import client, events

BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "a", "max_length": 2},
    "/v1/chat/completions": {
        "model": "latest_checkpoint.pt",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "max_tokens": 2,
        "logprobs": True,
        "top_logprobs": 1,
        "stop": ["zz"],
        "logit_bias": {"5": 1},
        "response_format": {"type": "text"},
    },
    "/v1/completions": {"model": "latest_checkpoint.pt", "prompt": [[5, 6]], "max_tokens": 2, "logprobs": 1, "echo": True},
    "/v1/responses": {"model": "latest_checkpoint.pt", "input": "a", "max_output_tokens": 2, "seed": None},
    "/v1/messages": {
        "model": "latest_checkpoint.pt",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "system": "b",
        "max_tokens": 2,
        "stop_sequences": ["zz"],
    },
    "/v1/messages/count_tokens": {"model": "latest_checkpoint.pt", "messages": [{"role": "user", "content": "a"}]},
    "/tokenize": {"prompt": "a", "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2]},
}
HIDDEN = {"/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/", "/static"}


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    return {"$ref": content["application/json"]["schema"]["$ref"], "components": document()["components"]}


def valid(value: Any, schema: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def request_schema(path: str) -> dict[str, Any]:
    return schema_of(document()["paths"][path]["post"]["requestBody"]["content"])


def test_the_document_is_openapi(gateway_url: str) -> None:
    with client(gateway_url) as http:
        response = http.get("/openapi.json")
        assert response.json() == json.loads(json.dumps(document())) and response.json()["openapi"] == "3.1.0"
        assert http.head("/openapi.json").headers["Content-Length"] == response.headers["Content-Length"]
    for name, schema in document()["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object", name
    told = json.dumps(document())
    for reference in {part.split('"')[0] for part in told.split('"$ref": "')[1:]}:
        assert reference.removeprefix("#/components/schemas/") in document()["components"]["schemas"]


def test_every_route_is_described_with_its_methods() -> None:
    def routes(router: Any) -> Any:
        for route in router.routes:
            inner = getattr(route, "original_router", None)
            yield from routes(inner) if inner is not None else [route]

    there: dict[str, set[str]] = {}
    for route in routes(create_app(Settings())):
        there.setdefault(route.path, set()).update(getattr(route, "methods", None) or ())
    described = {
        path.replace("{name}", "{name:path}"): {method.upper() for method in item if method != "parameters"}
        for path, item in document()["paths"].items()
    }
    assert described == {path: methods for path, methods in there.items() if path not in HIDDEN}


@pytest.mark.parametrize("path", BODIES)
def test_bodies_and_answers_are_as_described(gateway_url: str, api_key: str, path: str) -> None:
    assert valid(BODIES[path], request_schema(path))
    with client(gateway_url, api_key) as http:
        response = http.post(path, json=BODIES[path])
        assert response.status_code == 200, response.text
        described = document()["paths"][path]["post"]["responses"]
        jsonschema.validate(response.json(), schema_of(described["200"]["content"]))
        refused = http.post(path, json=BODIES[path] | {"model": "gpt-4"})
        jsonschema.validate(refused.json(), schema_of(described["404"]["content"]))
        if path in ("/generate", "/v1/chat/completions", "/v1/completions"):
            data = described["200"]["content"]["text/event-stream"]["schema"]["properties"]["data"]
            told = data["anyOf"][1]
            for event in events(http.post(path, json=BODIES[path] | {"stream": True})):
                jsonschema.validate(event, told["contentSchema"] | {"components": document()["components"]})


@pytest.mark.parametrize("path", ["/v1", "/v1/models", "/v1/models/latest_checkpoint.pt", "/health", "/readyz", "/livez"])
def test_what_can_be_got_is_as_described(gateway_url: str, api_key: str, path: str) -> None:
    described = document()["paths"][path.replace("latest_checkpoint.pt", "{name}")]["get"]["responses"]["200"]
    with client(gateway_url, api_key) as http:
        response = http.get(path)
        assert http.head(path).status_code == response.status_code == 200
    jsonschema.validate(response.json(), schema_of(described["content"]))


@pytest.mark.parametrize("path", BODIES)
def test_the_described_bodies_refuse_what_the_routes_refuse(path: str) -> None:
    fields = document()["components"]["schemas"][request_schema(path)["$ref"].rpartition("/")[2]]["properties"]
    assert not valid(BODIES[path] | {"no_such_field": 1}, request_schema(path))
    for name, value in (
        ("temperature", 2.1),
        ("temperature", "1"),
        ("top_k", 1.5),
        ("max_length", 513),
        ("n", 129),
        ("stop", ["a"] * 5),
        ("stop", [""]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}),
        ("response_format", {"type": "regex"}),
        ("response_format", {"type": "text", "regex": "a"}),
        ("tools", [{}]),
        ("prompt", ""),
        ("prompt", 5),
        ("messages", []),
        ("input", []),
        ("tokens", [-1]),
        ("stream_options", {"include_usage": True}),
        ("stream", None if path == "/generate" else 1),
    ):
        if name in fields and (path, value) != ("/tokenize", ""):  # an empty text has tokens: none
            assert not valid(BODIES[path] | {name: value}, request_schema(path)), name


def test_an_earlier_call_and_a_templates_variables_are_described_as_the_route_takes_them() -> None:
    """A response has calls too, with other fields: a schema of the same name would take the place of the body's."""
    schema = request_schema("/v1/chat/completions")
    call = {"id": "1", "function": {"name": "f", "arguments": ""}}
    for called, expected in ((call, True), (call | {"x": 1}, False), (call | {"type": "x"}, False)):
        messages = [{"role": "assistant", "content": None, "tool_calls": [called]}]
        assert valid({"model": "m", "messages": messages}, schema) == expected
    for count in (16, 17):
        variables = {str(number): number for number in range(count)}
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": variables}
        assert valid(body, schema) == (count == 16)


def test_every_bound_and_default_is_in_the_document() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("GenerateBody", "ChatBody", "CompletionBody", "ResponsesBody"):
        for field in SamplingBody.model_fields:
            assert schemas[name]["properties"][field]["description"]
    temperature = schemas["GenerateBody"]["properties"]["temperature"]
    assert (temperature["minimum"], temperature["maximum"], temperature["default"]) == (0, 2, 0.7)
    assert {"type": "null"} in schemas["ChatBody"]["properties"]["temperature"]["anyOf"]
    assert schemas["ChatBody"]["required"] == ["model", "messages"]


def test_the_examples_are_valid_and_answered(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        for path in BODIES:
            example = document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
            assert valid(example, request_schema(path))
            assert http.post(path, json=example).status_code == 200


def test_both_headers_of_the_key_are_described() -> None:
    assert document()["security"] == [{"X-API-Key": []}, {"Bearer": []}]
    assert document()["components"]["securitySchemes"].keys() == {"X-API-Key", "Bearer"}
    assert document()["paths"]["/health"]["get"]["security"] == []
    for path in BODIES:
        assert {"400", "401", "403", "404", "413", "429", "500", "503"} < document()["paths"][path]["post"]["responses"].keys()


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/static/docs.js"])
def test_the_page_and_its_files_are_served_from_here_without_a_key(gateway_url: str, path: str) -> None:
    with client(gateway_url) as http:
        page = http.get(path)
        assert page.status_code == http.head(path).status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]


def test_the_page_shows_every_route_and_loads_nothing_from_elsewhere(gateway_url: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here, the page was NOT tested (apt-get install chromium)")
    problems: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith((gateway_url, "data:")) else problems.append(asked.url))
        page.goto(f"{gateway_url}/docs")
        playwright.expect(page.locator(".opblock-summary-path")).not_to_have_count(0)
        shown = {path.replace("\u200b", "") for path in page.locator(".opblock-summary-path").all_inner_texts()}
        page.click("text=/generate")
        playwright.expect(page.locator(".opblock.is-open")).to_have_count(1)
        browser.close()
    assert shown == document()["paths"].keys()
    assert problems == []
