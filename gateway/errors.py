"""All errors that a client can receive.

TidegateError
├── Unauthorized            401  missing, wrong or expired key
├── InvalidRequest          400  the request is invalid; names the parameter
│   └── ContextLengthExceeded  400  the prompt leaves no room for an answer
├── ModelNotAllowed         403  the key is valid, but not for this model
├── ModelNotFound           404  no such model
├── RateLimited             429  the key has reached one of its limits; says which one and when to retry
├── Overloaded              429  too many requests are queued; says when to retry
├── BackendUnavailable      503  Triton does not answer; says when to retry
└── InternalError           500  anything else: logged in full, reported in one sentence

Messages are for the client: they name what was sent and what is allowed, and reveal no internals. Foreign errors are converted
to one of these where they enter, with their cause.
"""

import asyncio
import json

STOPS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)  # end the work but are not errors
LONGEST_ECHO = 40  # characters of the client's input that a message quotes
ENCODER = json.JSONEncoder()


class TidegateError(Exception):
    status = 500
    kind = "server_error"  # `error.type` of /generate's envelope
    openai_type = "server_error"
    anthropic_type = "api_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds
        self.headers: dict[str, str] = {}  # of the response, in addition to those implied by the status


class Unauthorized(TidegateError):
    status = 401
    kind = "auth_error"
    openai_type = "invalid_request_error"
    anthropic_type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str = "Unauthorized. Invalid or missing API Key.") -> None:
        super().__init__(message)


class InvalidRequest(TidegateError):
    status = 400
    kind = "invalid_request"
    openai_type = "invalid_request_error"
    anthropic_type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotAllowed(TidegateError):
    status = 403
    kind = "auth_error"
    openai_type = anthropic_type = "permission_error"
    code = "model_not_allowed"


class ModelNotFound(TidegateError):
    status = 404
    kind = "invalid_request"
    openai_type = "invalid_request_error"
    anthropic_type = "not_found_error"
    code = "model_not_found"


class RateLimited(TidegateError):
    """``limit``: the limit's name in the key file. Without ``retry_after``, retrying is pointless."""

    status = 429
    kind = openai_type = anthropic_type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.limit = limit
        if retry_after is None:
            self.headers["x-should-retry"] = "false"  # OpenAI's SDKs obey it


class Overloaded(TidegateError):
    status = 429
    openai_type = anthropic_type = "rate_limit_error"
    code = "overloaded"


class BackendUnavailable(TidegateError):
    status = 503
    anthropic_type = "overloaded_error"
    code = "backend_unavailable"

    def __init__(self, message: str, *, retry_after: int | None = None, detail: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        self.detail = detail  # for the log only


class InternalError(TidegateError):
    def __init__(self) -> None:
        super().__init__("The server met an error it did not expect. It has been logged; please try again.")


def echo(value: object) -> str:
    """The client's input as JSON in printable ASCII, truncated."""
    text = ""
    for piece in ENCODER.iterencode(value):  # stops early for a large value
        text += piece
        if len(text) > LONGEST_ECHO:
            return text[: LONGEST_ECHO - 3] + "..."
    return text
