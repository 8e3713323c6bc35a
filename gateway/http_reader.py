"""Requests out of the bytes of a connection. h11 parses them; what it tolerates and another server could read in another way is
refused first, so that a proxy in front and this server never disagree on where a request ends.

Knows no socket and no clock. h11 gets a head only when all of it is here, and nothing that came is ever changed.
"""

import re
from collections.abc import Iterator

import h11

from gateway.errors import InvalidRequest

MAXIMUM_HEAD = 32 * 1024  # bytes of the request line and the headers
MAXIMUM_HEADERS = 100
MAXIMUM_CHUNKS = 8192  # of a body: each costs some µs, however little is in it

END_OF_HEAD = b"\r\n\r\n"
EMPTY_LINES = re.compile(rb"(?:\r\n)+")
LONE_CR_OR_LF = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
BEGINS_A_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")

Part = h11.Request | h11.Data | h11.EndOfMessage


class BadHttp(InvalidRequest):
    code = "bad_http"

    def __init__(self, why: str) -> None:
        super().__init__(f"This is not HTTP as this server speaks it: {why}.")


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"

    def __init__(self) -> None:
        allowed = f"{MAXIMUM_HEAD} bytes and {MAXIMUM_HEADERS} headers"
        super().__init__(f"The head of the request is too large: it may have at most {allowed}.")


class RequestReader:
    """Reads one request after the other. After an error nothing more can be read: the connection must be closed."""

    def __init__(self) -> None:
        self._head = bytearray()  # that is not complete; between requests, what came ahead
        self._searched = 0  # bytes of it, without finding its end
        self._message: h11.Connection | None = None  # of the request whose body comes
        self._chunks = 0
        self._ended = False  # by HTTP/1.0 or Connection: close; what comes behind that is no request

    @property
    def in_head(self) -> bool:
        """Some of a head has come, but not all of it."""
        return self._message is None and len(self._head) > 0

    @property
    def path(self) -> str:
        """Of an incomplete head, as far as it is known."""
        target = bytes(self._head[:MAXIMUM_HEAD].partition(b"\r\n")[0]).split(b" ")[1:2]
        return target[0].partition(b"?")[0].decode("latin-1") if target else ""

    def receive(self, data: bytes) -> Iterator[Part]:
        """The parts of requests that ``data`` completes. Raises BadHttp and HeadTooLarge."""
        if self._ended:
            return
        if self._message is None:
            self._head += data
        else:
            self._message.receive_data(data)
        while True:
            if self._message is None:
                request = self._next_request()
                if request is None:
                    return
                yield request
            assert self._message is not None
            part = self._next_part(self._message)
            if part is None:
                return
            if isinstance(part, h11.EndOfMessage):
                self._ended = self._message.their_state is h11.MUST_CLOSE
                if not self._ended:
                    self._head += self._message.trailing_data[0]
                self._message = None
            yield part
            if self._ended:
                return

    def _next_request(self) -> h11.Request | None:
        if empty := EMPTY_LINES.match(self._head):  # before a request they mean nothing
            del self._head[: len(empty[0])]
        if self._head and self._head != b"\r" and not BEGINS_A_METHOD.match(self._head):
            raise BadHttp("a request begins with its method")
        end = self._head.find(END_OF_HEAD, max(0, self._searched - len(END_OF_HEAD)))
        length = len(self._head) if end < 0 else end + len(END_OF_HEAD)
        if length > MAXIMUM_HEAD:
            raise HeadTooLarge
        if LONE_CR_OR_LF.search(self._head, max(0, self._searched - 1), length):
            raise BadHttp("lines end with CR LF, and neither of them stands alone")
        self._searched = length
        if end < 0:
            return None
        return self._begin(bytes(self._head[:length]))

    def _begin(self, head: bytes) -> h11.Request:
        lines = head.removesuffix(END_OF_HEAD).split(b"\r\n")[1:]
        if len(lines) > MAXIMUM_HEADERS:
            raise HeadTooLarge
        message = h11.Connection(h11.SERVER, MAXIMUM_HEAD)
        message.receive_data(head)
        try:
            request = message.next_event()
        except h11.RemoteProtocolError as error:
            raise BadHttp(_reason(error)) from error
        assert isinstance(request, h11.Request)
        _require_one_meaning(request, lines)
        if rest := self._head[len(head) :]:
            message.receive_data(bytes(rest))
        self._head.clear()
        self._searched = self._chunks = 0
        self._message = message
        return request

    def _next_part(self, message: h11.Connection) -> h11.Data | h11.EndOfMessage | None:
        try:
            part = message.next_event()
        except h11.RemoteProtocolError as error:
            raise BadHttp(_reason(error)) from error
        if part is h11.NEED_DATA:
            return None
        assert isinstance(part, (h11.Data, h11.EndOfMessage))
        if isinstance(part, h11.Data) and part.chunk_start:
            self._chunks += 1
            if self._chunks > MAXIMUM_CHUNKS:
                raise BadHttp(f"a body comes in at most {MAXIMUM_CHUNKS} chunks; join small ones, or send Content-Length")
        return part


def _require_one_meaning(request: h11.Request, lines: list[bytes]) -> None:
    """Raises BadHttp where a body's length is said in two ways, or in a way that servers read differently."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise BadHttp("the version is HTTP/1.1 or HTTP/1.0")
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise BadHttp("a header is one line")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise BadHttp("the length of a body is said once, by Content-Length or by Transfer-Encoding")
    if lengths and not lengths[0].isdigit():
        raise BadHttp("Content-Length is a number in digits")
    if codings and request.http_version == b"1.0":
        raise BadHttp("Transfer-Encoding does not exist in HTTP/1.0")
    if request.method == b"CONNECT":
        raise BadHttp("this server is no proxy")


def _reason(error: h11.RemoteProtocolError) -> str:
    """h11's sentence without what it quotes of the request."""
    return re.sub(r"[:(].*", "", str(error), flags=re.DOTALL).strip().lower().rstrip(".")
