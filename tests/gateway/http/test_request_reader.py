"""Where a request ends: the reader never disagrees with h11 and with llhttp, however its bytes are split, and what can be read
in two ways is refused."""

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.http.body_reader import CHUNKS_AT_ONCE, MAXIMUM_CHUNKS, MAXIMUM_TRAILER_FIELDS
from gateway.http.request_reader import MAXIMUM_HEAD, HeadTooLarge, RequestReader

Message = tuple[bytes, bytes, bytes]  # method, target, body
REFUSED: Message = (b"refused", b"", b"")

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /generate HTTP/1.1\r\nHost: x\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
ACCEPTED = {
    "pipelined": GET + POST + b"Content-Length: 5\r\n\r\nhello" + GET,
    "an offer of another protocol, and a body": POST + H2C + b"Content-Length: %d\r\n\r\n" % len(GET) + GET + GET,
    "the same in a second head": GET + POST + H2C + b"Content-Length: %d\r\n\r\n" % len(GET) + GET + GET,
    "an offer, and chunks": POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + GET,
    "chunks": POST + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n0003;a=b\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n" + GET,
    "empty lines between": b"\r\n\r\n" + GET + b"\r\n" + GET,
    "HTTP/1.0, behind which nothing is a request": b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi" + GET,
    "a last request": POST + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nhi" + GET,
    "spaces around a value": POST + b"Content-Length: \t 2 \r\n\r\nhi" + GET,
    "a length of nothing": POST + b"Content-Length: 0\r\n\r\n" + GET,
}
BOTH = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "one length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "one length twice in a line": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length and chunks": POST + BOTH + b"\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks within something": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no chunks": POST + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "a length of other digits": POST + "Content-Length: ٥\r\n\r\nhello".encode(),
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "an endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "space before the name": POST + b" Content-Length: 5\r\n\r\nhello",
    "a folded header": POST + b"Content-Length:\r\n 5\r\n\r\nhello",
    "a folded header of no meaning": POST + b"X: a\r\n\tb\r\n\r\n",
    "lone LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "a lone LF among others": POST + b"X: y\nContent-Length: 5\r\n\r\nhello",
    "LF CR LF": POST + b"Content-Length: 5\r\n\n\r\nhello",
    "a lone CR": POST + b"X: y\rContent-Length: 5\r\n\r\nhello",
    "CR CR LF": POST + b"X: y\r\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL": POST + b"Content-Length: 5\x00\r\n\r\nhello",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2 itself": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
    "a signed chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a chunk as 0x5": POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk that ends elsewhere": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "a chunk's line ended by LF": POST + b"Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n",
    **{
        name: POST + b"Transfer-Encoding: chunked\r\n\r\n" + rest
        for name, rest in {
            "a lone CR in a chunk's line": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            "a NUL in a chunk's line": b"5;\x00\r\nhello\r\n0\r\n\r\n",
            "a space behind a chunk's size": b"5 \r\nhello\r\n0\r\n\r\n",
            "a chunk's size of nine digits": b"000000005\r\nhello\r\n0\r\n\r\n",
            "LF before a chunk's line": b"5\r\nhello\n0\r\n\r\n",
            "LF instead of trailers": b"0\r\n\n",
            "trailers that end with LF": b"0\r\nX: y\n\n",
            "trailers that end with CR LF LF": b"0\r\nX: y\r\n\n",
            "trailers that end with LF CR LF": b"0\r\nX: y\n\r\n",
            "a lone CR before a trailer": b"0\r\n\rX: y\r\n\r\n",
            "a lone CR behind a trailer": b"0\r\nX: y\r\r\n\r\n",
            "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
            "a length as a trailer": b"0\r\nContent-Length: 10\r\n\r\n",
            "chunks as a trailer": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
            "a trailer without a name": b"0\r\n: y\r\n\r\n",
            "space behind a trailer's name": b"0\r\nX : y\r\n\r\n",
            "a NUL in a trailer": b"0\r\nX: \x00\r\n\r\n",
        }.items()
    },
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
}


def read(*pieces: bytes) -> list[Message]:
    """The requests that are complete, and REFUSED where one is refused."""
    reader, messages, begun, body = RequestReader(), list[Message](), None, b""
    for piece in pieces:
        try:
            for part in reader.receive(piece):
                if isinstance(part, h11.Request):
                    begun, body = part, b""
                elif isinstance(part, h11.Data):
                    body += part.data
                else:
                    assert begun is not None
                    messages.append((begun.method, begun.target, body))
        except InvalidRequest:
            return [*messages, REFUSED]
    return messages


def read_by_h11(data: bytes) -> list[Message]:
    """As h11 alone reads it: with a connection for each message, since nothing is answered."""
    messages: list[Message] = []
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        if not data:
            return messages
        connection = h11.Connection(h11.SERVER, MAXIMUM_HEAD)
        connection.receive_data(data)
        try:
            request, body = connection.next_event(), b""
            while isinstance(part := connection.next_event(), h11.Data):
                body += part.data
        except h11.RemoteProtocolError:
            return [*messages, REFUSED]
        if not isinstance(request, h11.Request) or not isinstance(part, h11.EndOfMessage):
            return messages
        messages.append((request.method, request.target, body))
        if connection.their_state is h11.MUST_CLOSE:
            return messages
        data = connection.trailing_data[0]
    return messages


class ByLlhttp:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages.append((self.parser.get_method(), self.url, self.body))


def read_by_llhttp(data: bytes) -> list[Message]:
    """It takes what follows an offer of another protocol for that protocol: to be asked where there is none."""
    reader = ByLlhttp()
    try:
        reader.parser.feed_data(data)
    except httptools.HttpParserError:
        return [*reader.messages, REFUSED]
    return reader.messages


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_request_is_read_as_others_read_it_wherever_its_bytes_are_split(sent: bytes) -> None:
    whole = read(sent)
    assert whole and REFUSED not in whole and whole == read_by_h11(sent)
    assert b"Upgrade" in sent or whole == read_by_llhttp(sent)
    for place in range(1, len(sent)):
        assert read(sent[:place], sent[place:]) == whole
    assert read(*(sent[place : place + 1] for place in range(len(sent)))) == whole


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
@pytest.mark.parametrize(
    "before", [b"", GET, POST + H2C + b"Content-Length: 2\r\n\r\nhi"], ids=["first", "second", "after h2c"]
)
def test_what_servers_read_differently_is_refused_wherever_its_bytes_are_split(before: bytes, sent: bytes) -> None:
    expected = [*read(before), REFUSED]
    for place in range(1, len(before + sent)):
        assert read((before + sent)[:place], (before + sent)[place:]) == expected
    assert read(*(bytes([byte]) for byte in before + sent)) == expected


BEGINNINGS = [b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"POST /b HTTP/1.0\r\n"]
FIELDS = [b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"content-length:5\r\n", b"Transfer-Encoding: chunked\r\n"]
BODIES = [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]
SCRAPS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x00",
    b"\x0b",
    b"\xff",
    b"_",
    b"+3",
    b"0x3",
    b"X: y\r\n",
    b"X: \r\n",
]
WORDS = [b"Host: x\r\n", b"Host: x", b"Content-Length", b"Transfer-Encoding", b"chunked", b"Connection: close\r\n"]
CHUNKS = [b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"3;x=y\r\n", b"transfer-encoding: identity\r\n"]
ANYTHING = st.lists(st.sampled_from(BEGINNINGS + FIELDS + BODIES + SCRAPS + WORDS + CHUNKS), min_size=1, max_size=5).map(
    b"".join
)
REQUESTS = st.builds(
    lambda beginning, fields, body: beginning + b"Host: x\r\n" + fields + b"\r\n" + body,
    st.sampled_from(BEGINNINGS),
    st.sampled_from([b"", *FIELDS]) | ANYTHING,
    st.sampled_from(BODIES) | ANYTHING,
)


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join), st.data())
def test_no_bytes_are_read_in_another_way_than_h11_and_llhttp_read_them(sent: bytes, data: st.DataObject) -> None:
    whole = read(sent)
    complete = [message for message in whole if message != REFUSED]
    for other in (read_by_h11(sent), read_by_llhttp(sent)):
        agreed = [message for message in other if message != REFUSED]
        # Another server may refuse where this one does not, and the reverse; nobody takes a request for another one.
        shared = min(len(complete), len(agreed))
        assert complete[:shared] == agreed[:shared]
        assert REFUSED in other or len(complete) <= len(agreed)
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=4)))
    pieces = [sent[begin:end] for begin, end in zip([0, *places], [*places, len(sent)], strict=True)]
    assert read(*(piece for piece in pieces if piece)) == whole


def test_heads_trailers_and_chunks_are_bounded() -> None:
    with pytest.raises(HeadTooLarge):
        list(RequestReader().receive(POST + b"X: " + b"x" * MAXIMUM_HEAD))
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(InvalidRequest, match="at most 8192 chunks"):
        list(RequestReader().receive(chunked + b"1\r\n \r\n" * (MAXIMUM_CHUNKS + 1)))
    long, many = b"X: " + b"x" * (MAXIMUM_HEAD + 10), b"X: y\r\n" * (MAXIMUM_TRAILER_FIELDS + 1)
    for refused in (b"0\r\n" + long, b"1;" + long, b"1;" + b"x" * 2000 + b"\r\n"):
        with pytest.raises(InvalidRequest, match="at most 1024 bytes"):
            list(RequestReader().receive(chunked + refused))
    for trailers in (long, b"X: %s\r\n" % (b"x" * 1000) * 40, many):
        with pytest.raises(InvalidRequest, match="at most"):
            list(RequestReader().receive(chunked + b"0\r\n" + trailers + b"\r\n\r\n"))
    assert list(RequestReader().receive(chunked + b"0\r\n" + many[: -len(b"X: y\r\n")] + b"\r\n"))


def test_many_small_chunks_are_read_a_few_at_a_time() -> None:
    """So that the reader can turn to others in between."""
    reader = RequestReader()
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n" + GET
    parts = [next(reader.receive(sent))]
    while part := next(reader.receive(b""), None):
        parts.append(part)
    bodies = [bytes(part.data) for part in parts if isinstance(part, h11.Data)]
    assert b"".join(bodies) == b"x" * 100 and max(map(len, bodies)) <= CHUNKS_AT_ONCE
    assert [type(part) for part in parts[-3:]] == [h11.EndOfMessage, h11.Request, h11.EndOfMessage]
