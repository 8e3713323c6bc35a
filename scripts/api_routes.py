"""The tables of endpoints, errors and metrics, read from the application, its errors and its metrics."""

import re
from collections.abc import Iterator

from fastapi.routing import APIRoute
from prometheus_client.metrics import MetricWrapperBase

from gateway import errors
from gateway.app import create_app
from gateway.http.auth import require_api_key
from gateway.http.body import BodyTooLarge, RequestTimeout, UnsupportedEncoding
from gateway.http.body_reader import BadHttp
from gateway.http.error_responses import MethodNotAllowed, RouteNotFound, error_body
from gateway.http.protocol import TooManyConnections
from gateway.http.request_reader import HeadTooLarge
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics

# What each endpoint does, in table order.
ENDPOINTS = {
    "/generate": "continues a prompt; uses the default model unless you name another",
    "/v1/chat/completions": "OpenAI's Chat Completions API",
    "/v1/completions": "OpenAI's Completions API: continues prompts, or scores them",
    "/v1/responses": "OpenAI's Responses API",
    "/v1/messages": "Anthropic's Messages API",
    "/v1/messages/count_tokens": "counts the tokens of a `/v1/messages` request",
    "/v1/models": "the models the key may use",
    "/v1/models/{name}": "one model",
    "/v1": "the server's name, default model and endpoints",
    "/tokenize": "the tokens of a text or a conversation",
    "/detokenize": "the text of a list of tokens",
    "/health": "200 while Triton computes a real step for every model; reports running and waiting sequences",
    "/readyz": "200 while this gateway accepts requests",
    "/livez": "200 while the gateway itself runs, whatever the state of Triton",
    "/metrics": "metrics for Prometheus",
    "/docs": "interactive API reference",
    "/openapi.json": "the API as an OpenAPI document",
    "/": "a page for chatting with the models",
}
# HTTP errors, which are not in the tree of gateway/errors.py.
HTTP_ERRORS: list[tuple[errors.TidegateError, str]] = [
    (RouteNotFound(""), "no such path"),
    (MethodNotAllowed(""), "the path does not support this method; `Allow` lists those it does"),
    (BadHttp(""), "malformed or ambiguous HTTP"),
    (RequestTimeout(""), "the headers or the body did not arrive in time"),
    (BodyTooLarge(""), "the body is larger than 1 MiB"),
    (UnsupportedEncoding(""), "the body is compressed"),
    (HeadTooLarge(), "the request line and headers are too large, or there are too many headers"),
    (TooManyConnections("", retry_after=2), "too many open connections; `Retry-After` says when to retry"),
]


def endpoint_table() -> str:
    """Raises KeyError if an endpoint is not described here, or a described endpoint does not exist."""
    rows = ["| endpoint | methods | key | what it does |", "| --- | --- | --- | --- |"]
    # FastAPI keeps the routes of an included router in that router.
    routers = [getattr(route, "original_router", None) for route in create_app(Settings()).routes]
    routes = [route for router in routers if router is not None for route in router.routes if isinstance(route, APIRoute)]
    found = {re.sub(r":\w+}", "}", route.path): route for route in routes if not route.path.startswith("/docs/")}
    if found.keys() != ENDPOINTS.keys():
        raise KeyError(
            f"scripts/api_routes.py: endpoints without text or texts without endpoint: {found.keys() ^ ENDPOINTS.keys()}"
        )
    for path, text in ENDPOINTS.items():
        methods = ", ".join(sorted(found[path].methods or ()))
        needs_key = any(dependency.call is require_api_key for dependency in found[path].dependant.dependencies)
        rows.append(f"| `{path}` | {methods} | {'yes' if needs_key else 'no'} | {text} |")
    return "\n".join(rows)


def error_table() -> str:
    """One row per error: its description from gateway/errors.py and the types in its three bodies."""
    rows = ["| status | when | `type` of /generate | `type`, `code` of /v1 | `type` of /v1/messages |"]
    rows.append("| --- | --- | --- | --- | --- |")
    examples = [*_errors_of_the_tree(), *HTTP_ERRORS]
    for error, when in sorted(examples, key=lambda pair: pair[0].status):
        own, openai = error_body(error, "/generate")["error"], error_body(error, "/v1")["error"]
        code = f"`{openai['code']}`" if openai["code"] else "null"
        anthropic = error_body(error, "/v1/messages")["error"]
        rows.append(f"| {error.status} | {when} | `{own['type']}` | `{openai['type']}`, {code} | `{anthropic['type']}` |")
    return "\n".join(rows)


def metric_table() -> str:
    rows = ["| metric | kind | labels | what it tells |", "| --- | --- | --- | --- |"]
    metrics = Metrics(lambda: [])
    instruments = [one for one in metrics._registry._collector_to_names if isinstance(one, MetricWrapperBase)]
    labels = {instrument._name: instrument._labelnames for instrument in instruments}
    for family in metrics._registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kept = labels.get(family.name) or getattr(family, "_labelnames", None) or ()
        rows.append(f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in kept)} | {family.documentation} |")
    return "\n".join(rows)


def _errors_of_the_tree() -> Iterator[tuple[errors.TidegateError, str]]:
    """Each error with its line from the docstring; InvalidRequest appears with and without a field."""
    lines = {match[1]: match[2] for match in re.finditer(r"─ (\w+) +\d{3}  (.+)", errors.__doc__ or "")}
    for name, when in lines.items():
        kind = getattr(errors, name)
        if kind is errors.InvalidRequest:
            yield kind(""), "the body is not a JSON object, or has another `Content-Type`"
            yield kind("", param="field"), "a field is wrong, missing or unknown"
        elif issubclass(kind, errors.InvalidRequest):
            yield kind("", param="prompt"), when
        elif kind is errors.RateLimited:
            yield kind("", limit="requests_per_minute"), when
        elif kind in (errors.Unauthorized, errors.InternalError):
            yield kind(), when
        else:
            yield kind(""), when
