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

# What an endpoint is for, in the order of the table.
ENDPOINTS = {
    "/generate": "continues a text, with the default model unless another is named",
    "/v1/chat/completions": "answers a conversation, as OpenAI's clients speak it",
    "/v1/completions": "continues texts, as OpenAI's clients speak it; scores them",
    "/v1/responses": "answers a conversation, as OpenAI's newer clients speak it",
    "/v1/messages": "answers a conversation, as Anthropic's clients speak it",
    "/v1/messages/count_tokens": "how many tokens such a conversation has",
    "/v1/models": "the models that the key may use",
    "/v1/models/{name}": "one of them",
    "/v1": "what this server is, its default model, its endpoints",
    "/tokenize": "the tokens of a text or a conversation",
    "/detokenize": "the text of tokens",
    "/health": "200 while Triton answers a real step for every model; texts running and waiting",
    "/readyz": "200 while requests are welcome here",
    "/livez": "200 while the gateway itself runs, whatever Triton does",
    "/metrics": "for Prometheus",
    "/docs": "this interface in a browser, to try",
    "/openapi.json": "this interface as an OpenAPI document",
    "/": "a page to chat with the models",
}
# Errors that the tree of gateway/errors.py does not hold: they belong to HTTP.
HTTP_ERRORS: list[tuple[errors.TidegateError, str]] = [
    (RouteNotFound(""), "there is nothing at this path"),
    (MethodNotAllowed(""), "the path has no such method; `Allow` names those it has"),
    (BadHttp(""), "this is not HTTP, or servers read it differently"),
    (RequestTimeout(""), "the head or the body of the request did not arrive in time"),
    (BodyTooLarge(""), "the body is larger than 1 MiB"),
    (UnsupportedEncoding(""), "the body is compressed"),
    (HeadTooLarge(), "the request line and the headers are too large, or too many"),
    (TooManyConnections("", retry_after=2), "too many connections are open; `Retry-After` says when to come again"),
]


def endpoint_table() -> str:
    """Raises KeyError for an endpoint that is not described here, or that is described and does not exist."""
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
    """An example of every error, in the words of gateway/errors.py, with what its three bodies hold."""
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
    """Each with its line in the docstring; an InvalidRequest with and without the name of a field."""
    lines = {match[1]: match[2] for match in re.finditer(r"─ (\w+) +\d{3}  (.+)", errors.__doc__ or "")}
    for name, when in lines.items():
        kind = getattr(errors, name)
        if kind is errors.InvalidRequest:
            yield kind(""), "the body is no JSON object, or is sent as something else"
            yield kind("", param="field"), "a field is wrong, missing or unknown"
        elif issubclass(kind, errors.InvalidRequest):
            yield kind("", param="prompt"), when
        elif kind is errors.RateLimited:
            yield kind("", limit="requests_per_minute"), when
        elif kind in (errors.Unauthorized, errors.InternalError):
            yield kind(), when
        else:
            yield kind(""), when
