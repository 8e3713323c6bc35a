"""Everything that can go wrong, as the client reads it.

TidegateError
├── Unauthorized            401  no key, a wrong one, or one that has expired
├── InvalidRequest          400  the request cannot mean anything; names the parameter
│   └── ContextLengthExceeded  400  the prompt leaves no room for an answer
├── ModelNotAllowed         403  the key is good, but not for this model
├── ModelNotFound           404  no such model here
├── RateLimited             429  the key has used up one of its limits; says which, and when to come again
├── Overloaded              429  too many requests wait already; says when to come again
├── BackendUnavailable      503  Triton does not answer; says when to come again
└── InternalError           500  anything else: logged in full, reported in one sentence

A message is for the client: it names what came and what is allowed, and nothing of the inside. Foreign errors are turned into
one of these where they enter, with their cause.
"""

import asyncio
import json

STOPS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)  # what ends work and is no error
LONGEST_ECHO = 40  # characters of what came that a message repeats
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
        self.headers: dict[str, str] = {}  # of the answer, besides those that follow from the status


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
    """``limit``: the name of the limit, as the file of keys has it. Without ``retry_after``: to come again is of no use."""

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
    """What came, as JSON in printable ASCII, cut short."""
    text = ""
    for piece in ENCODER.iterencode(value):  # a large value is not encoded to its end
        text += piece
        if len(text) > LONGEST_ECHO:
            return text[: LONGEST_ECHO - 3] + "..."
    return text
