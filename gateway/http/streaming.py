"""Running a generation for a client that may go away, and sending it as server-sent events.

The generator of the pieces is closed the moment it is of no more use: at its end, on an error, and when the client disconnects,
streaming or not. Closing it frees the sequences' slots.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from itertools import chain
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.engine.generation import Delta
from gateway.http.error_responses import error_in_stream

HEARTBEAT = 10.0  # seconds without an event after which a stream tells that it lives: proxies cut silent ones after 30 or 60
COMMENT = b": keep-alive\n\n"  # what starts with a colon is no event: clients skip it

Result = TypeVar("Result")
Event = dict[str, Any]
ToEvents = Callable[[AsyncIterator[Delta]], AsyncGenerator[Event, None]]

# OpenAI's few codes of a response that failed, by the type that an error has elsewhere.
RESPONSE_ERRORS = defaultdict(
    lambda: "server_error", invalid_request_error="invalid_prompt", rate_limit_error="rate_limit_exceeded"
)

# U+0085, U+2028 and U+2029: legal inside JSON, but some clients split lines there.
LINE_SEPARATORS = {separator.encode(): f"\\u{ord(separator):04x}".encode() for separator in "\u0085\u2028\u2029"}


async def complete(request: Request, deltas: AsyncGenerator[Delta, None], texts: int) -> list[Delta]:
    """The ``texts`` whole answers, each as one piece.

    Raises ClientDisconnect, with the generation stopped, when the client goes away first.
    """

    async def collect() -> list[Delta]:
        pieces: list[list[Delta]] = [[] for _ in range(texts)]
        async with aclosing(deltas):
            async for delta in deltas:
                pieces[delta.index].append(delta)
        return [_joined(text) for text in pieces]

    return await unless_disconnected(request.receive, collect())


def _joined(pieces: list[Delta]) -> Delta:
    return Delta(
        text="".join(piece.text for piece in pieces),
        tokens=sum(piece.tokens for piece in pieces),
        finish_reason=pieces[-1].finish_reason,
        index=pieces[0].index,
        logprobs=tuple(chain.from_iterable(piece.logprobs for piece in pieces)),
        prompt_logprobs=pieces[0].prompt_logprobs,
        cached_tokens=pieces[0].cached_tokens,
    )


class EventStream(StreamingResponse):
    """Sends events as JSON, an error as the event of its family, and ``[DONE]`` at the end. Made by ``open``.

    While Triton is being started again there is nothing to send: then a comment every HEARTBEAT seconds keeps the stream open.
    """

    end = b"data: [DONE]\n\n"

    def __init__(self, path: str, deltas: AsyncGenerator[Delta, None], events: AsyncGenerator[Event, None]) -> None:
        self.path = path
        self.deltas = deltas
        self.events = events
        self._last_sent = time.monotonic()
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second: nginx must not hold events back
        super().__init__(self._lines(), media_type="text/event-stream", headers=headers)

    @classmethod
    async def open(cls, request: Request, deltas: AsyncGenerator[Delta, None], to_events: ToEvents) -> "EventStream":
        """Waits for the first delta, so that an error before any text is still answered with its own status."""
        first = await unless_disconnected(request.receive, _next(deltas))
        return cls(request.url.path, deltas, to_events(_chain(first, deltas)))

    def line(self, event: Event) -> bytes:
        return b"data: " + _json(event) + b"\n\n"

    def failure(self, error: Event) -> Event:
        """The last event of a stream that ``error`` ends; by then the status is sent."""
        return error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.deltas), aclosing(self.events):
            with suppress(ClientDisconnect):
                await unless_disconnected(receive, self.stream_response(send))

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        beating = asyncio.create_task(self._beat(send))  # one for the whole stream, beside it: an event costs nothing more
        try:
            async for line in self.body_iterator:
                await send({"type": "http.response.body", "body": line, "more_body": True})
                self._last_sent = time.monotonic()
        finally:
            beating.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        """Where the client reads nothing, one comment waits with the next event: they do not pile up."""
        while True:
            silent = time.monotonic() - self._last_sent
            if silent >= HEARTBEAT:
                await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                self._last_sent, silent = time.monotonic(), 0.0
            await asyncio.sleep(HEARTBEAT - silent)

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            async for event in self.events:
                yield self.line(event)
        except Exception as error:
            yield self.line(self.failure(error_in_stream(error, self.path)))
        if self.end:
            yield self.end


class NamedEventStream(EventStream):
    """As /v1/responses streams: every event has its name in a line of its own, and a number; the last one is the end."""

    end = b""

    def __init__(self, path: str, deltas: AsyncGenerator[Delta, None], events: AsyncGenerator[Event, None]) -> None:
        super().__init__(path, deltas, events)
        self._sent = 0
        self._response: Event = {}  # as the last event that tells of it as a whole left it

    def line(self, event: Event) -> bytes:
        self._response = event.get("response", self._response)
        data = _json(event | {"sequence_number": self._sent})
        self._sent += 1
        return b"event: " + event["type"].encode() + b"\ndata: " + data + b"\n\n"

    def failure(self, error: Event) -> Event:
        told = {"code": RESPONSE_ERRORS[error["error"]["type"]], "message": error["error"]["message"]}
        return {"type": "response.failed", "response": self._response | {"status": "failed", "error": told}}


def _json(event: Event) -> bytes:
    data = to_json(event)
    if not data.isascii():
        for separator, escape in LINE_SEPARATORS.items():
            data = data.replace(separator, escape)
    return data


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``; when the client goes away first, cancels it, waits for its end, raises ClientDisconnect."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(deltas)


async def _chain(first: Delta, rest: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    yield first
    async for delta in rest:
        yield delta
