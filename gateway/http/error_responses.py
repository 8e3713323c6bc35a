"""Maps errors to what the client receives: status, headers, and the body format of the route's family.

| family          | body                                                                                           |
| --------------- | ---------------------------------------------------------------------------------------------- |
| `/v1/messages…` | ``{"type": "error", "error": {"type", "message"}, "request_id"}`` as Anthropic writes it       |
| `/v1…`          | ``{"error": {"message", "type", "param", "code"}}`` as OpenAI writes it                        |
| the others      | ``{"status": "error", "error": {"type", "message"}}``                                          |

In a stream whose headers have been sent, the same body is sent as an event. Statuses and codes are attributes of the errors.
"""

import json
import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import STOPS, InternalError, InvalidRequest, TidegateError
from gateway.http.request_log import CLIENT_CLOSED_REQUEST
from gateway.telemetry.logs import current_request_id

log = logging.getLogger(__name__)

PATHS = {"/generate", "/tokenize", "/detokenize", "/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"}
PATHS |= {"/v1", *(f"/v1/{path}" for path in ("models", "chat/completions", "completions", "responses"))}
PATHS |= {"/v1/messages", "/v1/messages/count_tokens"}

ONE_MODEL = re.compile(r"/v1/models/[\w.:-]{1,64}", re.ASCII)


class RouteNotFound(InvalidRequest):
    status = 404
    anthropic_type = "not_found_error"
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


def install(app: FastAPI) -> None:
    """Handlers are coroutines: Starlette would run plain functions in a thread, which costs more than the response."""
    app.add_exception_handler(TidegateError, _answer)
    app.add_exception_handler(HTTPException, _answer_routing)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """Responds to errors that no other handler handles. A middleware, since Starlette runs a catch-all handler outside of all
    middleware, where its response would get no CORS headers and no request id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch_send)
        except STOPS:
            raise
        except BaseException as error:  # a panic in a Rust library is not an Exception
            if scope["type"] != "http" or begun:
                raise  # the server logs it and cuts the connection: all that is left to do
            log.error("Unexpected error", exc_info=error)
            response = await _answer(Request(scope), InternalError())
            await response(scope, receive, send)


def last_response(error: TidegateError, path: str) -> bytes:
    """A complete response, including the head, after which the connection closes."""
    body = json.dumps(error_body(error, path)).encode()
    fields = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
    if error.retry_after is not None:
        fields["Retry-After"] = error.retry_after
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{head}\r\n".encode() + body


def error_body(error: TidegateError, path: str) -> dict[str, Any]:
    path = "/" + path.lstrip("/")
    if is_within(path, "/v1/messages"):
        reported = {"type": error.anthropic_type, "message": error.message}
        return {"type": "error", "error": reported, "request_id": current_request_id.get()}
    if is_within(path, "/v1"):
        return {"error": {"message": error.message, "type": error.openai_type, "param": error.param, "code": error.code}}
    names_a_field = isinstance(error, InvalidRequest) and error.param is not None
    return {"status": "error", "error": {"type": "validation_error" if names_a_field else error.kind, "message": error.message}}


def is_within(path: str, family: str) -> bool:
    return path == family or path.startswith(f"{family}/")


def error_in_stream(error: Exception, path: str) -> dict[str, Any]:
    """The event for an error after the headers were sent. Unexpected errors are logged in full and reported in one sentence."""
    if not isinstance(error, TidegateError):
        log.error("Unexpected error in the stream of %s", path, exc_info=error)
        error = InternalError()
    return error_body(error, path)


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, TidegateError)
    request.state.record.error = error
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, request.url.path), error.status, headers)


async def _answer_routing(request: Request, error: Exception) -> Response:
    """Responds to the router's own errors: an unknown path or an unsupported method."""
    assert isinstance(error, HTTPException)
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))  # the router names them in any order
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": f"{allowed}, OPTIONS"})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = await _answer(request, MethodNotAllowed(f"{request.method} is not possible here; allowed: {allowed}."))
        response.headers["Allow"] = allowed
        return response
    meant = _meant(request)
    hint = f" Did you mean {meant}?" if meant else ""
    return await _answer(request, RouteNotFound(f"There is nothing at this path.{hint}"))


def _meant(request: Request) -> str | None:
    """An existing path that the client probably meant: extra slashes removed, or /v1 added or not doubled."""
    plain = "/" + "/".join(filter(None, request.url.path.split("/")))
    for path in (plain, f"/v1{plain}", plain.replace("/v1/v1", "/v1", 1)):
        if path != request.url.path and (path in PATHS or ONE_MODEL.fullmatch(path)):
            return path
    return None


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
