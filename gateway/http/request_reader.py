"""Parses requests from connection bytes. h11 parses heads. Input that h11 tolerates but other servers might read differently
is refused first, so that a proxy in front and this server never disagree on where a request ends.

Uses no socket and no clock. h11 gets a head only once it is complete, and the input is never altered.
"""

import re
from collections.abc import Iterator

import h11

from gateway.errors import InvalidRequest
from gateway.http.body_reader import LONE_CR_OR_LF, BadHttp, BodyInChunks, BodyOfLength

MAXIMUM_HEAD = 32 * 1024  # bytes of the request line and the headers
MAXIMUM_HEADERS = 100

END_OF_HEAD = b"\r\n\r\n"
EMPTY_LINES = re.compile(rb"(?:\r\n)+")
ORIGIN = re.compile(rb"(?i)^https?://[^/?]*")  # proxies may put the server's address before the path
BEGINS_A_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")

Part = h11.Request | h11.Data | h11.EndOfMessage


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"

    def __init__(self) -> None:
        allowed = f"{MAXIMUM_HEAD} bytes and {MAXIMUM_HEADERS} headers"
        super().__init__(f"The head of the request is too large: it may have at most {allowed}.")


class RequestReader:
    """Reads one request after another. After an error nothing more can be read, and the connection must be closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # not parsed yet
        self._searched = 0  # bytes of the head already searched for its end
        self._body: BodyInChunks | BodyOfLength | None = None  # of the request being read
        self._last = False  # HTTP/1.0 or Connection: close; bytes after that request are ignored
        self._ended = False

    @property
    def in_head(self) -> bool:
        """Whether part of a head has arrived, but not all of it."""
        return self._body is None and len(self._buffer) > 0

    @property
    def path(self) -> str:
        """The path in an incomplete head, as far as it has arrived."""
        if not self.in_head:
            return ""
        target = bytes(self._buffer[:MAXIMUM_HEAD].partition(b"\r\n")[0]).split(b" ")[1:2]
        return target[0].partition(b"?")[0].decode("latin-1") if target else ""

    def receive(self, data: bytes) -> Iterator[Part]:
        """Yields the parts of requests that ``data`` completes. Raises BadHttp and HeadTooLarge.

        To read some of them later, stop iterating and call it again without data.
        """
        if self._ended:
            return
        self._buffer += data
        while not self._ended and (part := self._next_request() if self._body is None else self._next_part(self._body)):
            yield part

    def _next_request(self) -> h11.Request | None:
        if empty := EMPTY_LINES.match(self._buffer):  # ignored before a request
            del self._buffer[: len(empty[0])]
        if self._buffer and self._buffer != b"\r" and not BEGINS_A_METHOD.match(self._buffer):
            raise BadHttp("a request begins with its method")
        end = self._buffer.find(END_OF_HEAD, max(0, self._searched - len(END_OF_HEAD)))
        length = len(self._buffer) if end < 0 else end + len(END_OF_HEAD)
        if length > MAXIMUM_HEAD:
            raise HeadTooLarge
        if LONE_CR_OR_LF.search(self._buffer, max(0, self._searched - 1), length):
            raise BadHttp("lines end with CR LF, and neither of them stands alone")
        self._searched = length
        if end < 0:
            return None
        return self._begin(bytes(self._buffer[:length]))

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
        del self._buffer[: len(head)]
        self._searched = 0
        self._last = ends_its_connection(request)
        self._body = _body_of(request)
        return request

    def _next_part(self, body: BodyInChunks | BodyOfLength) -> h11.Data | h11.EndOfMessage | None:
        if data := body.take(self._buffer):
            return h11.Data(data=data)
        if not body.ended:
            return None
        self._body = None
        self._ended = self._last
        if self._ended:
            self._buffer.clear()
        return h11.EndOfMessage()


def path_and_query(request: h11.Request) -> tuple[bytes, bytes]:
    target = ORIGIN.sub(b"", request.target, count=1)
    path, _, query = target.partition(b"?")
    if path and not path.startswith(b"/"):
        raise BadHttp("the target of a request is a path")
    return path or b"/", query


def ends_its_connection(request: h11.Request) -> bool:
    words = {word.strip().lower() for name, value in request.headers if name == b"connection" for word in value.split(b",")}
    return request.http_version != b"1.1" or b"close" in words


def _body_of(request: h11.Request) -> BodyInChunks | BodyOfLength:
    """The reader for a request's body. The head was checked: at most one field gives the length."""
    fields = dict(request.headers)
    if b"transfer-encoding" in fields:
        return BodyInChunks()
    return BodyOfLength(int(fields.get(b"content-length", b"0")))


def _require_one_meaning(request: h11.Request, lines: list[bytes]) -> None:
    """Raises BadHttp if a body's length is given twice, or in a way that servers read differently."""
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
    """h11's message without what it quotes from the request."""
    return re.sub(r"[:(].*", "", str(error), flags=re.DOTALL).strip().lower().rstrip(".")
