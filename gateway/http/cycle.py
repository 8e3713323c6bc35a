"""uvicorn's cycle of one request and response, extended for clients that know no chunked encoding or are still sending."""

import sys

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Cycle(RequestResponseCycle):
    """One request and its response. For HTTP/1.0 clients, a response without a length ends when the connection closes."""

    lingers = False  # the response is sent but the client is still sending; closing now would destroy the response
    _until_close = False

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if self.waiting_for_100_continue:
                self.keep_alive = False  # the client may send either its body or another request next
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
