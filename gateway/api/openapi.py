"""The OpenAPI document: every route with its request and response, generated from the types that the routes use."""

from functools import cache
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from gateway import errors
from gateway.api import anthropic_models as anthropic
from gateway.api import response_models as answers
from gateway.api import server_models as server
from gateway.api.schemas import (
    Body,
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    GenerateBody,
    MessagesBody,
    ResponsesBody,
    TokenizeBody,
)
from gateway.http.body import BODY_TIMEOUT, MAXIMUM_BODY, BodyTooLarge, RequestTimeout, UnsupportedEncoding
from gateway.http.error_responses import is_within
from gateway.http.request_reader import MAXIMUM_HEAD, MAXIMUM_HEADERS, HeadTooLarge

Json = dict[str, Any]

VERSION = "1"  # of the interface

DESCRIPTION = f"""\
A checkpoint of a small GPT, served by NVIDIA Triton.

The key travels in either header, `X-API-Key: KEY` or `Authorization: Bearer KEY`. Bodies are JSON objects of at most
{MAXIMUM_BODY} bytes; types are strict, and fields that a route does not know are refused by name. Under `/v1`, and for
`/tokenize` and `/detokenize`, null means the default.
"""
POINTER = "#/components/schemas/{model}"
DEFAULT = "latest_checkpoint.pt"
TEXTS = "Texts"
TOKENS = "Tokens"
ABOUT = "About the server"
# path, body, response, type of a stream event, tag, summary
POSTS: list[tuple[str, type[Body], Any, Any, str, str]] = [
    ("/generate", GenerateBody, answers.Generated, answers.GeneratedEvent, TEXTS, "A text goes on"),
    (
        "/v1/chat/completions",
        ChatBody,
        answers.ChatCompletion,
        answers.ChatCompletionChunk,
        TEXTS,
        "An answer in a conversation",
    ),
    ("/v1/completions", CompletionBody, answers.Completion, answers.Completion, TEXTS, "Prompts go on"),
    ("/v1/responses", ResponsesBody, answers.Response, answers.ResponseEvent, TEXTS, "A text for a text"),
    (
        "/v1/messages",
        MessagesBody,
        anthropic.AnthropicMessage,
        anthropic.MessageEvent,
        TEXTS,
        "An answer in a conversation, in Anthropic's form",
    ),
    (
        "/v1/messages/count_tokens",
        CountTokensBody,
        anthropic.InputTokens,
        None,
        TOKENS,
        "How many tokens the conversation of /v1/messages has",
    ),
    ("/tokenize", TokenizeBody, answers.Tokens, None, TOKENS, "The tokens of a text or a conversation"),
    ("/detokenize", DetokenizeBody, answers.Detokenized, None, TOKENS, "The text of tokens"),
]
# path, response, whether it needs a key, possible errors, summary
GETS: list[tuple[str, Any, bool, list[type[errors.TidegateError]], str]] = [
    ("/v1", server.About, True, [], "What this server is"),
    ("/v1/models", server.Models, True, [], "The models that this key may use"),
    ("/v1/models/{name}", server.Model, True, [errors.ModelNotAllowed, errors.ModelNotFound], "One model"),
    ("/health", server.Health, False, [errors.BackendUnavailable], "Whether every model answers, and its load"),
    ("/readyz", server.Alive, False, [errors.BackendUnavailable], "Whether requests may be sent here"),
    ("/livez", server.Alive, False, [errors.BackendUnavailable], "Whether the gateway itself runs"),
]
POST_ERRORS: list[type[errors.TidegateError]] = [
    errors.InvalidRequest,
    errors.Unauthorized,
    errors.ModelNotAllowed,
    errors.ModelNotFound,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedEncoding,
    HeadTooLarge,
    errors.RateLimited,
    errors.InternalError,
    errors.BackendUnavailable,
]
MESSAGES = [{"role": "user", "content": "Hello, world!"}]
EXAMPLES: dict[type[Body], Json] = {
    GenerateBody: {"prompt": "你好，世界", "max_length": 50, "temperature": 0.7, "top_k": 50},
    ChatBody: {"model": DEFAULT, "messages": MESSAGES, "max_tokens": 100, "temperature": 0.7},
    CompletionBody: {"model": DEFAULT, "prompt": "Once upon a time", "max_tokens": 50},
    ResponsesBody: {"model": DEFAULT, "input": "Hello, world!", "max_output_tokens": 100},
    MessagesBody: {"model": DEFAULT, "max_tokens": 100, "messages": MESSAGES},
    CountTokensBody: {"model": DEFAULT, "messages": MESSAGES},
    TokenizeBody: {"prompt": "Hello, world!", "return_token_strs": True},
    DetokenizeBody: {"tokens": [1, 2, 3]},
}
REASONS = {
    400: "The body is wrong; the message names the field, what came and what is allowed",
    401: "No key, or a wrong one",
    403: "The key may not use this model",
    404: "No such model",
    408: f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds",
    413: f"The body is larger than {MAXIMUM_BODY} bytes",
    415: "The body is compressed",
    429: "The key has used up one of its limits, or too many requests wait",
    431: f"The head of the request has more than {MAXIMUM_HEAD} bytes or {MAXIMUM_HEADERS} headers",
    500: "An unexpected error",
    503: "Triton does not answer",
}
HEADER_OF_STATUS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": DEFAULT}


@cache
def document() -> Json:
    schemas = _schemas()
    paths: Json = {path: {"post": _post(*rest, family=_family(path))} for path, *rest in POSTS}
    for path, answer, needs_key, may_meet, summary in GETS:
        get = _get(answer, needs_key, may_meet, summary, _family(path))
        both = {method: get | {"operationId": f"{method} {path}"} for method in ("get", "head")}
        paths[path] = both | ({"parameters": [NAME]} if "{name}" in path else {})
    paths["/metrics"] = _metrics()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidegate", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "."}],
        "security": [{"X-API-Key": []}, {"Bearer": []}],
        "tags": [{"name": TEXTS}, {"name": TOKENS}, {"name": ABOUT}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _post(body: type[Body], answer: Any, event: Any, tag: str, summary: str, *, family: Any) -> Json:
    content: Json = {"application/json": {"schema": _pointer(answer)}}
    if event is not None:
        content["text/event-stream"] = {"schema": _event(event)}
    return {
        "summary": summary,
        "operationId": body.__name__.removesuffix("Body").lower(),
        "tags": [tag],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _pointer(body), "example": EXAMPLES[body]}},
        },
        "responses": {"200": {"description": "The answer", "content": content}} | _errors(POST_ERRORS, family),
    }


def _event(kind: Any) -> Json:
    """OpenAPI 3.1 cannot describe a stream of events; tools read this as the schema of a single event."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": _pointer(kind)}
    data = {"anyOf": [{"const": "[DONE]"}, text]}
    return {
        "type": "object",
        "description": 'With `"stream": true`: server-sent events. Where they have no names, the last one\'s data is [DONE].',
        "properties": {"event": {"type": "string"}, "data": data},
        "required": ["data"],
    }


def _get(answer: Any, needs_key: bool, may_meet: list[type[errors.TidegateError]], summary: str, family: Any) -> Json:
    may_meet = [*may_meet, errors.InternalError] + ([errors.Unauthorized] if needs_key else [])
    answered = {"description": "The answer", "content": {"application/json": {"schema": _pointer(answer)}}}
    security: Json = {} if needs_key else {"security": []}
    return {"summary": summary, "tags": [ABOUT], "responses": {"200": answered} | _errors(may_meet, family)} | security


def _metrics() -> Json:
    text = {"description": "In Prometheus' format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    get = {"summary": "Figures for Prometheus", "tags": [ABOUT], "security": [], "responses": {"200": text}}
    return {method: get | {"operationId": f"{method} /metrics"} for method in ("get", "head")}


def _errors(may_meet: list[type[errors.TidegateError]], family: Any) -> Json:
    statuses = sorted({error.status for error in may_meet})
    return {str(status): _error(status, family) for status in statuses}


def _error(status: int, family: Any) -> Json:
    answer: Json = {"description": REASONS[status], "content": {"application/json": {"schema": _pointer(family)}}}
    if status in HEADER_OF_STATUS:
        answer["headers"] = {HEADER_OF_STATUS[status]: {"schema": {"type": "string"}}}
    return answer


def _family(path: str) -> Any:
    """Returns the error envelope for a path, as in error_responses.py."""
    if is_within(path, "/v1/messages"):
        return anthropic.AnthropicError
    return server.OpenAIError if is_within(path, "/v1") else server.Error


def _pointer(kind: Any) -> Json:
    return {"$ref": POINTER.format(model=kind.__name__)}


def _schemas() -> Json:
    """Returns the schemas of all bodies and responses, by name."""
    bodies = [body for _, body, *_ in POSTS]
    _, described = models_json_schema([(body, "validation") for body in bodies], ref_template=POINTER)
    kinds = {kind.__name__: kind for _, _, answer, event, *_ in POSTS for kind in (answer, event) if kind is not None}
    of_errors = (server.OpenAIError, anthropic.AnthropicError, server.Error)
    kinds |= {answer.__name__: answer for answer in (*(answer for _, answer, *_ in GETS), *of_errors)}
    adapters = [(name, "serialization", TypeAdapter(kind)) for name, kind in kinds.items()]
    _, answered = TypeAdapter.json_schemas(adapters, ref_template=POINTER)  # type: ignore[arg-type]
    requests, answers = cast(Json, described["$defs"]), cast(Json, answered["$defs"])
    assert requests.keys().isdisjoint(answers), "a body's schema and a response's have the same name"
    return requests | answers
