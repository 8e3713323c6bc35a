"""The one table from an error to what the client receives: status, headers, and the body of its family of routes.

| family     | body                                                                                                |
| ---------- | --------------------------------------------------------------------------------------------------- |
| `/v1…`     | ``{"error": {"message", "type", "param", "code"}}`` as OpenAI writes it                             |
| the others | ``{"status": "error", "error": {"type", "message"}}``                                               |

In a stream whose headers are sent, the same body is an event. Statuses and codes are attributes of the errors themselves.
"""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.errors import InternalError, InvalidRequest, TidegateError

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # for the access log only: nobody is left to read it


class RouteNotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


def install(app: FastAPI) -> None:
    app.add_exception_handler(TidegateError, _answer)
    app.add_exception_handler(HTTPException, _answer_routing)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unexpected)


def error_body(error: TidegateError, path: str) -> dict[str, Any]:
    if path == "/v1" or path.startswith("/v1/"):
        return {"error": {"message": error.message, "type": error.openai_type, "param": error.param, "code": error.code}}
    names_a_field = isinstance(error, InvalidRequest) and error.param is not None
    return {"status": "error", "error": {"type": "validation_error" if names_a_field else error.kind, "message": error.message}}


def error_in_stream(error: Exception, path: str) -> dict[str, Any]:
    """The event for an error that came after the headers; an unexpected one is logged in full and told in one sentence."""
    if not isinstance(error, TidegateError):
        log.error("Unexpected error in the stream of %s", path, exc_info=error)
        error = InternalError()
    return error_body(error, path)


def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, TidegateError)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, request.url.path), error.status, headers)


def _answer_routing(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": f"{allowed}, OPTIONS"})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = _answer(request, MethodNotAllowed(f"{request.method} is not possible here; allowed: {allowed}."))
        response.headers["Allow"] = allowed
        return response
    return _answer(request, RouteNotFound("There is nothing at this path."))


def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _answer_unexpected(request: Request, error: Exception) -> Response:
    """Runs outside of the CORS middleware: a browser must be told here that it may read this. The server logs the error."""
    response = _answer(request, InternalError())
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
