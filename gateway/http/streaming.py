"""Sends a generation's output. If the client disconnects, the generation is closed at once, streamed or not."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.api.serializers.common import Serializer
from gateway.engine.generation import Delta, Generation
from gateway.http.error_responses import error_in_stream

HEARTBEAT = 10.0  # seconds without an event before a keep-alive: proxies cut silent streams after 30 or 60
COMMENT = b": keep-alive\n\n"  # lines that start with a colon are comments, which clients skip


async def first_of(generation: Generation, request: Request) -> list[Delta]:
    """A stream's first deltas, or else all answers. Raises the generation's error, or ClientDisconnect."""
    with _closed_without(request.receive, generation):
        if deltas := await generation.take():
            return deltas
    raise ClientDisconnect


class EventStream(Response):
    """Sends a generation as server-sent events. Errors are events too, since the status has already been sent.

    While there is nothing to send, for example during a restart of Triton, a comment every HEARTBEAT seconds keeps the stream
    open.
    """

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, serializer: Serializer, first: list[Delta]) -> None:
        """``first``: the first deltas. They are taken beforehand, so that an earlier error gets its own status."""
        self.status_code, self.background = 200, None
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # X-Accel-Buffering: nginx must not buffer events
        self.init_headers(headers)
        self._generation, self._serializer, self._first = generation, serializer, first
        self._last_sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with _closed_without(receive, self._generation):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            send_event: Send = scope["state"]["send"]  # the server's own: events bypass the middlewares
            beating = asyncio.create_task(self._beat(send_event))  # one task per stream, so events cost nothing extra
            try:
                await self._send_events(send_event)
                end = self._serializer.end() if self._generation.finished else b""
            except Exception as error:
                scope["state"]["record"].error = error
                self._generation.close(error)
                end = self._serializer.failure(error_in_stream(error, scope["path"]))
            finally:
                beating.cancel()
            await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _send_events(self, send: Send) -> None:
        """Sends events that are ready at the same time in one message."""
        events, deltas = self._serializer.begin(), self._first
        while deltas:
            events += b"".join(map(self._serializer.events, deltas))
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
                self._last_sent = time.monotonic()
            events, deltas = b"", await self._generation.take()

    async def _beat(self, send: Send) -> None:
        """Sends keep-alive comments. If the client reads nothing, only one is pending: they do not pile up."""
        while True:
            silent = time.monotonic() - self._last_sent
            if silent >= HEARTBEAT:
                await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                self._last_sent, silent = time.monotonic(), 0.0
            await asyncio.sleep(HEARTBEAT - silent)


@contextmanager
def _closed_without(receive: Receive, generation: Generation) -> Iterator[None]:
    """Closes ``generation`` if its client disconnects or the block raises."""
    leaving = asyncio.ensure_future(_close_at_disconnect(receive, generation))
    try:
        yield
    except BaseException:
        generation.close()
        raise
    finally:
        leaving.cancel()


async def _close_at_disconnect(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.close()
