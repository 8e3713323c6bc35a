"""One request of a connection and its answer, as uvicorn runs it, for clients that know no chunks or still send."""

import sys

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Cycle(RequestResponseCycle):
    """One request and its answer. HTTP/1.0 clients know no chunks: without a length, an answer ends with the connection."""

    lingers = False  # the answer is sent, but its client still sends: a close would destroy it
    _until_close = False

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if self.waiting_for_100_continue:
                self.keep_alive = False  # whether the client sends its body now, or another request, is up to it
            names = {name.lower() for name, _ in message.get("headers", [])}
            if self.scope["http_version"] == "1.0" and b"content-length" not in names:
                self.chunked_encoding, self._until_close = False, True
        elif message["type"] == "http.response.body":
            last = not message.get("more_body", False)
            if self._until_close:
                self.expected_content_length = len(message.get("body", b"")) if last else sys.maxsize
            if last and not self.keep_alive and self.more_body:
                self.keep_alive, self.lingers = True, True
        await super().send(message)
