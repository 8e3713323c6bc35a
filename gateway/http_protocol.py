"""HTTP as uvicorn speaks it with httptools, with bounds on what a connection may cost before its request is known, and after.

uvicorn alone reads a head of any length, waits for it for ever, and keeps a connection whose client reads nothing.
"""

import asyncio
import json
import re
import time
from http import HTTPStatus
from typing import NoReturn, cast

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.body import BODY_TIMEOUT, RequestTimeout
from gateway.error_responses import error_body
from gateway.errors import BackendUnavailable, InvalidRequest, TidegateError

MAXIMUM_HEAD = 32 * 1024  # bytes of the request line and the headers
MAXIMUM_HEADERS = 100
MAXIMUM_CONNECTIONS = 2048  # a stranger's may hold a head and 64 KiB of a body
RESERVED_CONNECTIONS = 64  # more, that only PROBES are answered on
PROBES = (b"/livez", b"/readyz", b"/health", b"/metrics")
MAXIMUM_AHEAD = 16  # requests that a client may send before it has read the answers to those before them
HEAD_TIMEOUT = 10.0  # seconds for a whole head
IDLE_TIMEOUT = 75  # seconds between requests: load balancers give up theirs after 60, and must be the first
UNREAD_TIMEOUT = 60.0  # seconds within which a client that is behind must read something
REST_TIMEOUT = BODY_TIMEOUT + 5  # seconds for a body that is not read any more, since its request is answered
LAST_CALL = 0.5  # seconds that a connection without a request lives on in a stop: one may be on its way
LINGER = 1.0  # seconds that a refused client's bytes are thrown away: with bytes unread, a close would destroy the answer


# Clients such as Java's offer HTTP/2 this way, and httptools then takes what follows for it, not for a body.
UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade(?=:)")


class BadHttp(InvalidRequest):
    code = "bad_http"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class TooManyConnections(BackendUnavailable):
    code = "too_many_connections"


class Protocol(HttpToolsProtocol):
    """One connection. Where there are too many, those without a request make room, the longest at rest first."""

    _waits_since = 0.0  # time.monotonic: for its first request, or for the next
    _in_head = True  # a head is coming, or the first one is waited for
    _head_length = 0  # its bytes so far
    _extra_length = 0  # bytes behind a head that are no body: the sizes of chunks, and trailers
    _refusal: TidegateError | None = None  # what was told instead of an answer
    _patience: asyncio.TimerHandle | None = None  # with a head or a body that comes
    _unread: asyncio.TimerHandle | None = None  # until the next look whether the client reads

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(HEAD_TIMEOUT)
        self._waits_since = time.monotonic()
        if len(self.connections) > MAXIMUM_CONNECTIONS:
            self._make_room()
        if len(self.connections) > MAXIMUM_CONNECTIONS + RESERVED_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._forget_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._in_head or not self._answering:
            data = _without_upgrade(data)
        self._head_length += len(data)
        self._extra_length += len(data)
        super().data_received(data)
        if (self._head_length if self._in_head else self._extra_length) > MAXIMUM_HEAD:
            self._refuse(_too_large())
        elif self._patience is None and not self._answering and self.timeout_keep_alive_task is None:
            # The rest of a body that was not wanted, or empty lines: the connection rests again.
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._forget_reader()
        if not self._in_head:
            self._in_head, self._head_length = True, 1  # at least
            self._expect(HEAD_TIMEOUT)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers say nothing to us
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._extra_length = False, 0
        self._expect(REST_TIMEOUT)
        length = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if length > MAXIMUM_HEAD or len(self.headers) > MAXIMUM_HEADERS:
            self._stop_parsing(_too_large())
        if len(self.pipeline) >= MAXIMUM_AHEAD:
            self._stop_parsing(BadHttp(f"More than {MAXIMUM_AHEAD} requests were sent ahead of their answers."))
        if len(self.connections) > MAXIMUM_CONNECTIONS and not self.url.startswith(PROBES):
            message = f"{MAXIMUM_CONNECTIONS} connections are open already. Please try again later."
            self._stop_parsing(TooManyConnections(message, retry_after=2))
        super().on_headers_complete()
        if getattr(cast(FastAPI, self.config.app).state, "stopping", False):
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._extra_length = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._expect(None)
        self._extra_length = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._waits_since = time.monotonic()
        if self.transport.get_write_buffer_size():
            self._watch_reader()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._forget_reader()
        super().resume_writing()

    def shutdown(self) -> None:
        """No more requests, but those that have begun to come, or are on their way, are answered."""
        if self._answering:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LAST_CALL, self._close_at_rest)

    def send_400_response(self, msg: str) -> None:
        if self._refusal is None:
            self._refuse(BadHttp("This is not HTTP as this server speaks it."))

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to warn of: see `UPGRADE`."""

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Closes another connection that no request is under way on."""
        connections = cast("set[Protocol]", self.connections)
        others = [one for one in connections if one is not self and not one._answering and one._refusal is None]
        if others:
            min(others, key=lambda one: one._waits_since).transport.close()

    def _stop_parsing(self, error: TidegateError) -> NoReturn:
        self._refuse(error)
        raise error

    def _refuse(self, error: TidegateError) -> None:
        """Tells it, unless an answer is half told or others come first, and closes the connection."""
        self._refusal = error
        self._expect(None)
        if self.pipeline:
            self.transport.close()
            return
        if self._answering:
            self.cycle.disconnected = True  # the application is told so, and what it still says goes nowhere
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = json.dumps(error_body(error, getattr(self, "url", b"").partition(b"?")[0].decode("latin-1"))).encode()
        fields = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
        if error.retry_after is not None:
            fields["Retry-After"] = error.retry_after
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{head}\r\n".encode() + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    def _expect(self, seconds: float | None) -> None:
        """From now on a head or a body, within so many seconds; None: nothing."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._in_head and self._answering:  # a client that sends requests ahead: no matter
            self._expect(HEAD_TIMEOUT)
        elif self._in_head and self._head_length:
            self._refuse(RequestTimeout(f"The head of the request did not arrive within {HEAD_TIMEOUT:.0f} seconds."))
        else:
            self.transport.close()

    def _watch_reader(self) -> None:
        self._forget_reader()
        self._unread = self.loop.call_later(UNREAD_TIMEOUT, self._look_at_reader, self.transport.get_write_buffer_size())

    def _forget_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _look_at_reader(self, before: int) -> None:
        if left := self.transport.get_write_buffer_size():
            if left == before:
                self.transport.abort()
            else:
                self._watch_reader()

    def _close_at_rest(self) -> None:
        if not self._answering and not (self._in_head and self._head_length):
            self.transport.close()


def _too_large() -> HeadTooLarge:
    allowed = f"{MAXIMUM_HEAD} bytes and {MAXIMUM_HEADERS} headers"
    return HeadTooLarge(f"The head of the request is too large: it may have at most {allowed}.")


def _without_upgrade(data: bytes) -> bytes:
    """The beginning of a head, with another header in the place of one that offers to change the protocol."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"x-grade", head) + end + rest
