"""uvicorn's HTTP protocol, but with `RequestReader` as the parser and with limits on what a connection may cost, before its
request is known and after.

uvicorn alone waits forever for a head, keeps connections whose clients read nothing, and sends chunks to HTTP/1.0 clients.
"""

import asyncio
import time
from itertools import islice
from typing import Any, cast
from urllib.parse import unquote

import h11
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import BackendUnavailable, TidegateError
from gateway.http.body import BODY_TIMEOUT, RequestTimeout
from gateway.http.body_reader import BadHttp
from gateway.http.cycle import Cycle
from gateway.http.discarding import Discarding
from gateway.http.error_responses import last_response
from gateway.http.request_reader import Part, RequestReader, ends_its_connection, path_and_query
from gateway.http.unread import UnreadWatch

MAXIMUM_CONNECTIONS = 2048  # an unauthenticated one may hold a head and 64 KiB of a body
RESERVED_CONNECTIONS = 64  # additional ones, on which only PROBES are answered
PROBES = (b"/livez", b"/readyz", b"/health", b"/metrics")
MAXIMUM_AHEAD = 16  # requests that a client may pipeline
PARTS_AT_ONCE = 16  # request parts processed before the event loop does anything else
HEAD_TIMEOUT = 10.0  # seconds for a whole head
IDLE_TIMEOUT = 75  # seconds between requests; load balancers close theirs after 60 and must be first
REST_TIMEOUT = BODY_TIMEOUT + 5  # seconds for the rest of a body whose request has already been answered
LAST_CALL = 0.5  # seconds that an idle connection stays open during a stop: a request may be on its way
LINGER = 5.0  # seconds that a refused client's bytes are discarded before the connection is closed


class TooManyConnections(BackendUnavailable):
    code = "too_many_connections"


class Protocol(HttpToolsProtocol):
    """One connection. If there are too many, idle ones are closed, the longest idle first.

    Inherits the tasks, the flow control and the pipeline from uvicorn's class.
    """

    cycle: Cycle  # the newest
    _current: Cycle | None = None  # being answered, or the last one answered
    _waits_since = 0.0  # time.monotonic(): idle since then
    _reading: Cycle | None = None  # whose body is arriving
    _refusal: TidegateError | None = None  # sent after the responses to earlier requests; nothing is answered after it
    _rest: asyncio.Handle | None = None  # scheduled read of bytes that have already arrived
    _lingers = False  # whether further input is discarded
    _patience: asyncio.TimerHandle | None = None  # timeout for an arriving head or body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader, self._unread = RequestReader(), UnreadWatch(transport)
        self._discarding = Discarding(transport, self.flow)
        self.url = b""
        self._expect(HEAD_TIMEOUT)
        self._waits_since = time.monotonic()
        if len(self.connections) > MAXIMUM_CONNECTIONS:
            self._make_room()
        if len(self.connections) > MAXIMUM_CONNECTIONS + RESERVED_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._unread.end()
        if self._rest is not None:
            self._rest.cancel()
        if self._current is not None and not self._current.response_complete:  # uvicorn notifies only the newest
            self._current.disconnected = True
            self._current.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._read(data)

    def _read(self, data: bytes = b"") -> None:
        self._unset_keepalive_if_required()
        self._rest = None
        if self._discards or self.transport.is_closing():
            if self._discarding.take(len(data)):
                self._discarding.pause(sum(one._discards for one in cast("set[Protocol]", self.connections)))
            return
        read = 0
        try:
            for part in islice(self._reader.receive(data), PARTS_AT_ONCE):
                self._take(part)
                read += 1
        except TidegateError as error:
            self._refuse(error)
            return
        if read == PARTS_AT_ONCE:
            self._rest = self.loop.call_soon(self._read)
        if self._rest is not None or self._far_ahead:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()
        if self._rest is None:
            self._wait()

    @property
    def _discards(self) -> bool:
        return self._refusal is not None or self._lingers

    @property
    def _far_ahead(self) -> bool:
        """Whether to pause reading. As late as possible: while paused, a disconnect goes unnoticed."""
        waiting = sum(len(cycle.body) for cycle, _ in self.pipeline)
        newest = len(self.cycle.body) if self._answering else 0
        return len(self.pipeline) >= MAXIMUM_AHEAD // 2 or max(waiting, newest) > HIGH_WATER_LIMIT

    def _wait(self) -> None:
        """Starts a timeout for further input, unless one is running or a request is being answered."""
        if self._patience is not None or self._answering:
            return
        if self._reader.in_head:
            self._expect(HEAD_TIMEOUT)
        elif self.timeout_keep_alive_task is None:
            # After the rest of an unread body, or empty lines, the connection is idle again.
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _take(self, part: Part) -> None:
        if isinstance(part, h11.Request):
            self._expect(REST_TIMEOUT)
            self._begin(part)
            return
        if isinstance(part, h11.EndOfMessage):
            self._expect(None)
            self._reading = None
        if self.cycle.response_complete:
            return
        if isinstance(part, h11.Data):
            self.cycle.body += part.data
        else:
            self.cycle.more_body = False
        self.cycle.message_event.set()

    def _begin(self, request: h11.Request) -> None:
        """Runs the application on a request, or queues it behind earlier ones."""
        self.url = request.target
        if len(self.pipeline) >= MAXIMUM_AHEAD:
            raise BadHttp(f"more than {MAXIMUM_AHEAD} requests were sent ahead of their answers")
        if len(self.connections) > MAXIMUM_CONNECTIONS and not self.url.startswith(PROBES):
            message = f"{MAXIMUM_CONNECTIONS} connections are open already. Please try again later."
            raise TooManyConnections(message, retry_after=2)
        waits = self._answering
        self.cycle = self._reading = self._cycle(request)
        if waits:
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _cycle(self, request: h11.Request) -> Cycle:
        headers = list(request.headers)
        stopping = getattr(cast(FastAPI, self.config.app).state, "stopping", False)
        expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
        return Cycle(
            scope=self._scope(request, headers),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects and request.http_version == b"1.1",
            keep_alive=not ends_its_connection(request) and not stopping,
            on_response=self.on_response_complete,
        )

    def _scope(self, request: h11.Request, headers: list[tuple[bytes, bytes]]) -> Any:
        raw_path, query = path_and_query(request)
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": request.method.decode(),
            "root_path": "",
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cast(Cycle, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._waits_since = time.monotonic()
        if self._current is not None:
            self._current.body.clear()  # unread input
        if self.cycle.lingers:
            self._linger()
            return
        self._unread.begin()
        if self._refusal is not None and not self.pipeline:
            self._tell_refusal()
            return
        super().on_response_complete()
        if self._reader.in_head and self._patience is None:
            self._unset_keepalive_if_required()
            self._expect(HEAD_TIMEOUT)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        self._unread.end()
        self._unread.begin()  # the rest may stay unread too
        super().resume_writing()

    def shutdown(self) -> None:
        """Accepts no more requests, but answers those that are arriving or on their way."""
        if self._answering:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LAST_CALL, self._close_at_rest)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Closes another connection that is not answering a request."""
        connections = cast("set[Protocol]", self.connections)
        others = [one for one in connections if one is not self and not one._answering and one._refusal is None]
        if others:
            min(others, key=lambda one: one._waits_since).transport.close()

    def _refuse(self, error: TidegateError) -> None:
        """Sends the error after the responses to earlier requests, then closes the connection."""
        self._refusal = error
        self._expect(None)
        self.flow.resume_reading()  # input is discarded, but a disconnect is noticed
        wrong, self._reading = self._reading, None
        if wrong is not None and wrong.response_complete:
            self._linger()  # already answered: a second response would be taken for the next request's
            return
        if wrong is not None:
            wrong.disconnected, wrong.waiting_for_100_continue = True, False  # drops further output
            wrong.message_event.set()
            if wrong.response_started:
                self.transport.close()
                self._unread.begin()
                return
        if wrong is not None and wrong is not self._current:
            self.pipeline.popleft()
        if self._current in (None, wrong) or self._current.response_complete:
            self._tell_refusal()

    def _tell_refusal(self) -> None:
        error = self._refusal
        if error is None or self.transport.is_closing():
            return
        path = self._reader.path or self.url.partition(b"?")[0].decode("latin-1")
        self.transport.write(last_response(error, path))
        self._linger()

    def _linger(self) -> None:
        """Closes the connection after giving the client time to read its response."""
        self._lingers = True
        self._expect(None)
        self.flow.resume_reading()
        self.transport.write_eof()
        self._unread.begin()
        self.loop.call_later(LINGER, self.transport.close)

    def _expect(self, seconds: float | None) -> None:
        """Sets the timeout for an arriving head or body; None: no timeout."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._reader.in_head and not self._answering:
            self._refuse(RequestTimeout(f"The head of the request did not arrive within {HEAD_TIMEOUT:.0f} seconds."))
        else:
            self.transport.close()

    def _close_at_rest(self) -> None:
        if not self._answering and not self._reader.in_head:
            self.transport.close()
