"""Running a generation for a client that may go away, and sending it as server-sent events.

The engine's generator is closed the moment it is of no more use: at its end, on an error, and when the client disconnects,
streaming or not. Closing it frees the sequence's slot.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.error_responses import error_in_stream
from gateway.generation import Delta, FinishReason

Result = TypeVar("Result")
Event = dict[str, Any]
ToEvents = Callable[[AsyncIterator[Delta]], AsyncGenerator[Event, None]]

# Legal inside JSON, but some clients split lines there.
_LINE_SEPARATORS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    finish_reason: FinishReason | None


async def complete(request: Request, deltas: AsyncGenerator[Delta, None]) -> Answer:
    """The whole answer; raises ClientDisconnect, with the generation stopped, when the client goes away first."""

    async def collect() -> Answer:
        async with aclosing(deltas):
            pieces = [delta async for delta in deltas]
        return Answer("".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces), pieces[-1].finish_reason)

    return await unless_disconnected(request.receive, collect())


class EventStream(StreamingResponse):
    """Sends events as JSON, an error as the event of its family, and ``[DONE]`` at the end. Made by ``open``."""

    def __init__(self, path: str, deltas: AsyncGenerator[Delta, None], events: AsyncGenerator[Event, None]) -> None:
        self.path = path
        self.deltas = deltas
        self.events = events
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second: nginx must not hold events back
        super().__init__(self._lines(), media_type="text/event-stream", headers=headers)

    @classmethod
    async def open(cls, request: Request, deltas: AsyncGenerator[Delta, None], to_events: ToEvents) -> "EventStream":
        """Waits for the first delta, so that an error before any text is still answered with its own status."""
        first = await unless_disconnected(request.receive, _next(deltas))
        return cls(request.url.path, deltas, to_events(_chain(first, deltas)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.deltas), aclosing(self.events):
            with suppress(ClientDisconnect):
                await unless_disconnected(receive, self.stream_response(send))

    async def _lines(self) -> AsyncIterator[str]:
        try:
            async for event in self.events:
                yield _line(event)
        except Exception as error:  # the status is sent: an event is the only way left to tell
            yield _line(error_in_stream(error, self.path))
        yield "data: [DONE]\n\n"


def _line(event: Event) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False).translate(_LINE_SEPARATORS)}\n\n"


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
