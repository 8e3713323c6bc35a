"""Parses tool calls from streamed text, in the form (tool_calls.py) in which the model writes them.

Anything that is not a call of a known tool is text, never an error. A truncated call keeps the arguments it has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.text.tool_calls import NAME, CallForm

STRUCTURE = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)  # where a JSON scan stops
NAME_CHARACTERS = re.compile(r"[\w.-]*", re.ASCII)
WHITESPACE = " \t\r\n"  # JSON's
PARTS = re.compile(rf'{NAME}|"[a-z]+"|\S')  # of a pattern


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The start of a call. ``index``: its index in the output."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments; the pieces joined are JSON."""

    index: int
    text: str


Piece = str | CallBegun | CallArguments


@dataclass(frozen=True, slots=True)
class Match:
    """A match of a pattern at the start of a text. ``end`` None: all of the text matches, but the pattern needs more."""

    end: int | None
    name: str = ""


def match(pattern: str, text: str, names: Sequence[str]) -> Match | None:
    """Matches ``pattern``, a part of a form in which NAME stands for one of ``names``. Any whitespace is allowed around its
    words and signs. Returns None if there is no match."""
    position, name, before = 0, "", ""
    for part in PARTS.findall(pattern):
        if NAME not in (part, before):
            position += len(text[position:]) - len(text[position:].lstrip())
        if part == NAME:
            name = "".join(NAME_CHARACTERS.findall(text, position)[:1])
            position += len(name)
            if position == len(text):
                return Match(None) if any(other.startswith(name) for other in names) else None
            if name not in names:
                return None
        elif text.startswith(part, position):
            position += len(part)
        else:
            return Match(None, name) if part.startswith(text[position:]) else None
        before = part
    return Match(position, name)


class ToolReader:
    """Reads one output. ``calls``: the number of calls started."""

    def __init__(self, form: CallForm, names: Sequence[str]) -> None:
        self._form, self._names = form, names
        self._read = self._read_text
        self._buffer, self._json = "", JsonScan()
        self._bare = form.bare  # whether a call without a tag may begin here
        self.calls = 0

    @property
    def whole(self) -> bool:
        """Whether there are calls and the last one is complete."""
        return self.calls > 0 and self._read == self._read_text

    def feed(self, text: str) -> list[Piece]:
        """Returns the pieces that are final after this text."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._buffer and self._read(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """Returns the rest when no text follows. A partial tag or head is text."""
        rest, self._buffer = self._buffer, ""
        unread = self._read == self._read_text or self._read == self._read_opening
        return [rest] if unread and rest and not (self.calls and rest.isspace()) else []

    def _read_text(self, pieces: list[Piece]) -> bool:
        """Like every ``_read…`` method, consumes what it can from the buffer and returns whether the next one may continue."""
        if self._bare and self._bare_call(pieces):
            return self._read == self._read_arguments
        tag = self._form.tag
        if tag and (begin := self._buffer.find(tag)) >= 0:
            if text := self._buffer[:begin].rstrip():
                pieces.append(text)
            self._buffer, self._read = self._buffer[len(text) :], self._read_opening
            return True
        held = self._held()
        if text := self._buffer[:held]:
            pieces.append(text)
            self._buffer, self._bare = self._buffer[held:], False
        return False

    def _bare_call(self, pieces: list[Piece]) -> bool:
        """Whether the output starts with a call, or may still do so."""
        found = self._head(self._form.head)
        if found is None:
            self._bare = False
        elif found.end is not None:
            self._begin(found, pieces)
        return found is not None

    def _held(self) -> int:
        """Returns where a possible partial tag at the end of the buffer starts, including the whitespace before it."""
        tag, end = self._form.tag, len(self._buffer)
        begin = next((n for n in range(max(0, end - len(tag) + 1), end) if tag.startswith(self._buffer[n:])), end)
        return len(self._buffer[:begin].rstrip())

    def _read_opening(self, pieces: list[Piece]) -> bool:
        tag, opening = self._form.tag, self._form.opening
        found = self._head((opening if tag in opening else tag + opening) + self._form.head)
        if found is None:
            end = self._buffer.index(tag) + len(tag)
            pieces.append(self._buffer[:end])
            self._buffer, self._read = self._buffer[end:], self._read_text
            return True
        if found.end is not None:
            self._begin(found, pieces)
        return found.end is not None

    def _head(self, pattern: str) -> Match | None:
        """Matches a call up to its arguments, excluding the brace that starts them."""
        found = match(pattern + "{", self._buffer, self._names)
        return found if found is None or found.end is None else Match(found.end - 1, found.name)

    def _begin(self, found: Match, pieces: list[Piece]) -> None:
        pieces.append(CallBegun(self.calls, self._form.new_id(), found.name))
        self.calls += 1
        self._buffer, self._json = self._buffer[found.end :], JsonScan()
        self._read, self._bare = self._read_arguments, False

    def _read_arguments(self, pieces: list[Piece]) -> bool:
        end = self._json.end_in(self._buffer)
        pieces.append(CallArguments(self.calls - 1, self._buffer[:end]))
        self._buffer = "" if end is None else self._buffer[end:]
        if end is not None:
            self._read = self._read_tail if self._form.tail + self._form.closing else self._read_text
        return end is not None

    def _read_tail(self, pieces: list[Piece]) -> bool:
        form, names = self._form, self._names
        closed = match(form.tail + form.closing, self._buffer, names)
        if closed is not None and closed.end is not None:
            self._buffer, self._read = self._buffer[closed.end :], self._read_text
            return True
        another = None if form.between is None else self._head(form.tail + form.between + form.head)
        if another is not None and another.end is not None:
            self._begin(another, pieces)
            return True
        if closed is None and another is None:
            self._read = self._read_text
            return True
        return False


@dataclass(slots=True)
class Call:
    """A parsed call. ``arguments`` may be truncated."""

    id: str
    name: str
    arguments: str = ""


def read_all(reader: ToolReader, text: str) -> tuple[str, list[Call]]:
    """Splits a whole output into its text and its calls."""
    shown, calls = "", list[Call]()
    for piece in reader.feed(text) + reader.finish():
        if isinstance(piece, CallBegun):
            calls.append(Call(piece.id, piece.name))
        elif isinstance(piece, CallArguments):
            calls[piece.index].arguments += piece.text
        else:
            shown += piece
    return shown, calls


class JsonScan:
    """Finds the end of a JSON object that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def end_in(self, piece: str) -> int | None:
        """Returns the index after the last brace, or None if it has not arrived yet."""
        begin, self._escaped = int(self._escaped), False
        for found in STRUCTURE.finditer(piece, begin):
            mark = found[0]
            if mark == "\\":
                self._escaped = True
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark[0] != "\\":
                self._depth += 1 if mark in "{[" else -1
                if not self._depth:
                    return found.end()
        return None


class CallTrigger:
    """Finds where the calls of one output start, from the bytes of its tokens."""

    def __init__(self, form: CallForm, names: Sequence[str]) -> None:
        self._form, self._names = form, names
        self._text = ""  # may contain the start of a call; one character per byte
        self._bare = form.bare

    def begun_with(self, token: bytes) -> bytes | None:
        """Returns the part of the text that belongs to the calls, or None if they have not started. Whitespace in it is as the
        form has it: models write more or less of it, which a reader accepts and the grammar would not."""
        self._text += token.decode("latin-1")
        tag = self._form.tag
        if tag and (begin := self._text.find(tag)) >= 0:
            self._text, self._bare = self._text[begin + len(tag) :], False  # perhaps no call follows, but another tag
            return (tag + self._text.lstrip(WHITESPACE)).encode("latin-1")
        if self._bare:
            quoted = self._form.head.partition(NAME)[0] + NAME + '"'
            found = match(quoted, self._text, self._names)
            if found is not None and found.end is not None:
                rest = self._text[found.end :].lstrip(WHITESPACE)
                return (quoted.replace(NAME, found.name) + rest).encode("latin-1")
            self._bare = found is not None
        if not self._bare:
            self._text = self._text[max(0, len(self._text) - len(tag) + 1) :]
        return None
