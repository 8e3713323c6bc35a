"""The one table: each error's status and its body in each family of routes."""

import logging

import pytest

from gateway import errors
from gateway.http.body import BodyTooLarge, RequestTimeout, UnsupportedEncoding
from gateway.http.body_reader import BadHttp
from gateway.http.error_responses import MethodNotAllowed, RouteNotFound, error_body, error_in_stream
from gateway.http.protocol import TooManyConnections
from gateway.http.request_reader import HeadTooLarge
from gateway.telemetry.logs import current_request_id
from gateway.text.grammar import GrammarRefused

TABLE = [
    # error, status, type of /generate, type and code of /v1, type of /v1/messages
    (errors.Unauthorized(), 401, "auth_error", "invalid_request_error", "invalid_api_key", "authentication_error"),
    (errors.InvalidRequest("m"), 400, "invalid_request", "invalid_request_error", None, "invalid_request_error"),
    (errors.InvalidRequest("m", param="p"), 400, "validation_error", "invalid_request_error", None, "invalid_request_error"),
    (
        errors.ContextLengthExceeded("m", param="p"),
        400,
        "validation_error",
        "invalid_request_error",
        "context_length_exceeded",
        "invalid_request_error",
    ),
    (errors.ModelNotAllowed("m"), 403, "auth_error", "permission_error", "model_not_allowed", "permission_error"),
    (errors.ModelNotFound("m"), 404, "invalid_request", "invalid_request_error", "model_not_found", "not_found_error"),
    (
        errors.RateLimited("m", limit="l"),
        429,
        "rate_limit_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limit_error",
    ),
    (errors.Overloaded("m"), 429, "server_error", "rate_limit_error", "overloaded", "rate_limit_error"),
    (errors.BackendUnavailable("m"), 503, "server_error", "server_error", "backend_unavailable", "overloaded_error"),
    (errors.InternalError(), 500, "server_error", "server_error", None, "api_error"),
    (RouteNotFound("m"), 404, "invalid_request", "invalid_request_error", "not_found", "not_found_error"),
    (MethodNotAllowed("m"), 405, "invalid_request", "invalid_request_error", "method_not_allowed", "invalid_request_error"),
    (RequestTimeout("m"), 408, "invalid_request", "invalid_request_error", "request_timeout", "invalid_request_error"),
    (BodyTooLarge("m"), 413, "invalid_request", "invalid_request_error", None, "request_too_large"),
    (
        UnsupportedEncoding("m"),
        415,
        "invalid_request",
        "invalid_request_error",
        "unsupported_encoding",
        "invalid_request_error",
    ),
    (BadHttp("m"), 400, "invalid_request", "invalid_request_error", "bad_http", "invalid_request_error"),
    (HeadTooLarge(), 431, "invalid_request", "invalid_request_error", "headers_too_large", "invalid_request_error"),
    (TooManyConnections("m"), 503, "server_error", "server_error", "too_many_connections", "overloaded_error"),
]


def every_error(kind: type[errors.TidegateError]) -> set[type[errors.TidegateError]]:
    return {kind}.union(*(every_error(narrower) for narrower in kind.__subclasses__()))


@pytest.mark.parametrize(
    ("error", "status", "kind", "openai_type", "code", "anthropic_type"), TABLE, ids=lambda value: type(value).__name__
)
def test_an_error_has_the_envelope_of_its_family(error, status, kind, openai_type, code, anthropic_type) -> None:
    assert error.status == status
    assert error_body(error, "/generate") == {"status": "error", "error": {"type": kind, "message": error.message}}
    assert error_body(error, "/v1/chat/completions") == {
        "error": {"message": error.message, "type": openai_type, "param": error.param, "code": code}
    }
    before = current_request_id.set("req_1")
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        reported = {"type": anthropic_type, "message": error.message}
        assert error_body(error, path) == {"type": "error", "error": reported, "request_id": "req_1"}
    current_request_id.reset(before)


def test_the_table_holds_every_error_there_is() -> None:
    """GrammarRefused never reaches a client as it is: its reason is put into words of the field."""
    assert every_error(errors.TidegateError) - {errors.TidegateError, GrammarRefused} == {type(row[0]) for row in TABLE}


@pytest.mark.parametrize("path", ["/", "/health", "/generate", "/v1x", "/nothing"])
def test_only_v1_speaks_as_openai(path: str) -> None:
    assert "status" in error_body(errors.InternalError(), path)
    assert "status" not in error_body(errors.InternalError(), "/v1")


def test_an_unexpected_error_in_a_stream_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        event = error_in_stream(RuntimeError("password=hunter2"), "/v1/chat/completions")
    assert "hunter2" not in str(event)
    assert event == error_body(errors.InternalError(), "/v1/chat/completions")
    assert "hunter2" in caplog.text


def test_an_expected_error_in_a_stream_is_its_own_body() -> None:
    error = errors.BackendUnavailable("Triton does not answer.", retry_after=2)
    assert error_in_stream(error, "/generate") == error_body(error, "/generate")
