"""Reads bodies, by length or in chunks, and finds where they end. Refuses chunk lines and trailers that servers read
differently, as `RequestReader` does for heads.
"""

import re

from gateway.errors import InvalidRequest

MAXIMUM_CHUNKS = 8192  # per body; each costs about a microsecond, however small
CHUNKS_AT_ONCE = 16  # before the event loop does anything else
MAXIMUM_CHUNK_LINE = 1024  # bytes
MAXIMUM_TRAILERS = 32 * 1024  # bytes
MAXIMUM_TRAILER_FIELDS = 100

LONE_CR_OR_LF = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]{0,8};[\t\x20-\x7e\x80-\xff]{0,1000})?\r\n")
TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*")
OF_A_HEAD = (b"content-length", b"transfer-encoding", b"host")


class BadHttp(InvalidRequest):
    code = "bad_http"

    def __init__(self, why: str) -> None:
        super().__init__(f"This is not HTTP as this server speaks it: {why}.")


class BodyOfLength:
    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def ended(self) -> bool:
        return self._left == 0

    def take(self, buffer: bytearray) -> bytes:
        """Removes the body's bytes from ``buffer`` and returns them."""
        data = bytes(buffer[: self._left])
        del buffer[: len(data)]
        self._left -= len(data)
        return data


class BodyInChunks:
    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # bytes left in the current chunk
        self._before_line_end = False  # the CR LF after a chunk's data comes next
        self._in_trailers = False
        self._chunks = self._trailers = self._trailer_bytes = 0

    def take(self, buffer: bytearray) -> bytes:
        """Like `BodyOfLength.take`, but at most CHUNKS_AT_ONCE chunks. Raises BadHttp."""
        pieces: list[bytearray] = []
        place = 0
        for _ in range(CHUNKS_AT_ONCE):
            if not self._left and not self._in_trailers:
                place = self._take_line(buffer, place)
            if not self._left:
                break
            piece = buffer[place : place + self._left]
            pieces.append(piece)
            place += len(piece)
            self._left -= len(piece)
            if self._left:
                break
            self._before_line_end = True
        if self._in_trailers and not self.ended:
            place = self._take_trailers(buffer, place)
        del buffer[:place]
        return b"".join(pieces)

    def _take_line(self, buffer: bytearray, place: int) -> int:
        """The position after the next chunk's size line, or the position from which more bytes are needed."""
        if self._before_line_end:
            end = buffer[place : place + 2]
            if not b"\r\n".startswith(end):
                raise BadHttp("a chunk is longer than its line says")
            if len(end) < 2:
                return place
            self._before_line_end = False
            place += 2
        line = CHUNK_LINE.match(buffer, place)
        if line is None:
            if _line_end(buffer, place, MAXIMUM_CHUNK_LINE) >= 0:
                raise BadHttp("a chunk begins with its size in up to 8 hexadecimal digits")
            return place
        self._left = int(line[1], 16)
        self._in_trailers = self._left == 0
        self._chunks += 1
        if self._chunks > MAXIMUM_CHUNKS and self._left:
            raise BadHttp(f"a body comes in at most {MAXIMUM_CHUNKS} chunks; join small ones, or send Content-Length")
        return line.end()

    def _take_trailers(self, buffer: bytearray, place: int) -> int:
        while (end := _line_end(buffer, place, MAXIMUM_TRAILERS - self._trailer_bytes)) >= 0:
            line = buffer[place:end]
            place = end + 2
            if not line:
                self.ended = True
                break
            self._trailers += 1
            self._trailer_bytes += len(line) + 2
            if self._trailers > MAXIMUM_TRAILER_FIELDS:
                raise BadHttp(f"at most {MAXIMUM_TRAILER_FIELDS} trailers come after a body")
            field = TRAILER.fullmatch(line)
            if field is None:
                raise BadHttp("a trailer is one line, a name and a value")
            if field[1].lower() in OF_A_HEAD:
                raise BadHttp("a field that says where a request ends, or goes, is no trailer")
        return place


def _line_end(buffer: bytearray, place: int, longest: int) -> int:
    """The position of CR LF, or -1 if it has not arrived. Raises BadHttp if the line is too long or has a lone CR or LF."""
    end = buffer.find(b"\r\n", place)
    length = (end if end >= 0 else len(buffer)) - place
    if length > longest:
        raise BadHttp(f"the lines between chunks have at most {MAXIMUM_CHUNK_LINE} bytes, trailers {MAXIMUM_TRAILERS} together")
    if LONE_CR_OR_LF.search(buffer, place, place + length + 2):
        raise BadHttp("lines end with CR LF, and neither of them stands alone")
    return end
