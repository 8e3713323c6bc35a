"""Logs one line per request at its end, with a request id that also appears in the response and in all of its log lines.

Prompts, answers, keys, path parameters and query strings are not logged.
"""

import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import TidegateError
from gateway.telemetry.logs import current_request_id
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.request_record import FILES, NO_ROUTE, QUIET, RequestRecord
from gateway.telemetry.tracing import Tracing

logger = logging.getLogger("gateway.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+@-]{1,128}")  # nothing that could be mistaken for a log field
CLIENT_CLOSED_REQUEST = 499  # nginx's status: the client left before the response
LONGEST_PATH = 100  # characters of an unknown path that are logged
LONGEST_METHOD = 20


class RequestLog:
    """The outermost middleware: creates ``request.state.record``, sets X-Request-Id and x-ratelimit headers, logs, counts and
    traces. ``request.state.send`` is the server's own ``send``, for messages between a response's start and its end.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = RequestRecord(_request_id(headers), scope["method"])
        if self._tracing is not None:
            record.trace = self._tracing.begin(record, headers, scope["path"])
        state = scope.setdefault("state", {})
        state["record"], state["send"] = record, send
        current_request_id.set(record.request_id)
        answered = False

        async def watch_receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not answered:
                record.status = CLIENT_CLOSED_REQUEST
            return message

        async def watch_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = record.request_id
                if scope["path"].startswith("/v1/messages"):
                    headers["request-id"] = record.request_id  # Anthropic's name for it
                if "limits" in state:
                    headers.update(state["limits"].headers())
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, watch_receive, watch_send)
        finally:
            del state["send"]  # breaks a reference cycle
            if "limits" in state:
                state["limits"].end_request()
            record.route = _route(scope)
            self._metrics.count_request(record)
            if record.trace is not None:
                record.trace.end()
            if record.route not in QUIET | FILES or record.status is None or record.status >= 400:  # those only if they fail
                _log(record, scope["path"])


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"


def _route(scope: Scope) -> str:
    """The route's template; a mounted application counts as one route."""
    if "route" in scope:
        return str(scope["route"].path_format)
    return f"{scope['root_path']}/{{path}}" if "endpoint" in scope else NO_ROUTE


def _log(record: RequestRecord, path: str) -> None:
    # The beginning of an unknown path helps to find a wrong base URL. Known paths are logged as their template.
    shown = quote(path[:LONGEST_PATH]) if record.route == NO_ROUTE or record.route in FILES else record.route
    generation = record.generation
    fields = {
        "method": record.method[:LONGEST_METHOD],
        "path": shown,
        "status": record.status,
        "key": record.key,
        "model": record.model,
        "prompt_tokens": generation and generation.prompt_tokens,
        "cached_tokens": generation and generation.cached_tokens,
        "completion_tokens": generation and generation.completion_tokens,
        "time_to_first_token": None if record.first_token is None else round(record.first_token, 6),  # s
        "duration": round(time.monotonic() - record.began, 6),  # s
        "finish_reasons": (generation and generation.finish_reasons) or None,
        "error": None if record.error is None else _error_name(record.error),
        "trace_id": None if record.trace is None else record.trace.trace_id,
    }
    logger.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def _error_name(error: Exception) -> str:
    return (error.code or error.kind) if isinstance(error, TidegateError) else type(error).__name__
