"""Reads calls in an answer's text while it comes, in the one form (tool_calls.py) that its model writes them in.

What is no call of a known tool is text, never an error; of a call that is cut off, its arguments stay as far as they came.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.text.tool_calls import NAME, CallForm

STRUCTURE = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)  # what a scan of JSON stops at
NAME_CHARACTERS = re.compile(r"[\w.-]*", re.ASCII)
PARTS = re.compile(rf'{NAME}|"[a-z]+"|\S')  # of a pattern


@dataclass(frozen=True, slots=True)
class CallBegun:
    """``index``: which call of the answer it is."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments: pieces joined are its JSON."""

    index: int
    text: str


Piece = str | CallBegun | CallArguments


@dataclass(frozen=True, slots=True)
class Match:
    """Of a pattern with the beginning of a text. ``end`` None: all of the text matches, and more of it must come."""

    end: int | None
    name: str = ""


def match(pattern: str, text: str, names: Sequence[str]) -> Match | None:
    """``pattern``: a part of a form, where NAME stands for one of ``names``. Around its words and signs there may be any
    whitespace or none. None: no match."""
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
    """Of one answer. ``calls``: how many have begun."""

    def __init__(self, form: CallForm, names: Sequence[str]) -> None:
        self._form, self._names = form, names
        self._read = self._read_text
        self._buffer, self._json = "", JsonScan()
        self._bare = form.bare  # whether a call without a tag may begin here
        self.calls = 0

    @property
    def whole(self) -> bool:
        """Whether there are calls, and the last one has come to its end."""
        return self.calls > 0 and self._read == self._read_text

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain with this text."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._buffer and self._read(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """The rest, when no text follows: what might have become a call is text."""
        rest, self._buffer = self._buffer, ""
        unread = self._read == self._read_text or self._read == self._read_opening
        return [rest] if unread and rest and not (self.calls and rest.isspace()) else []

    def _read_text(self, pieces: list[Piece]) -> bool:
        """Each reader takes from the buffer what it can, and says whether the next one may go on."""
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
        """Whether the answer's beginning is a call, or may become one."""
        found = self._head(self._form.head)
        if found is None:
            self._bare = False
        elif found.end is not None:
            self._begin(found, pieces)
        return found is not None

    def _held(self) -> int:
        """Where the end of the buffer begins that may be the beginning of a tag, with the whitespace before it."""
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
        """A call up to its arguments, which begin with a brace; that one is not taken."""
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
    """All of it, once it was read; ``arguments``: as far as they came."""

    id: str
    name: str
    arguments: str = ""


def read_all(reader: ToolReader, text: str) -> tuple[str, list[Call]]:
    """A whole answer: the text beside its calls, and these."""
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
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def end_in(self, piece: str) -> int | None:
        """Behind its last brace; None where that has not come yet."""
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
    """Of one answer: finds where its calls begin, from the bytes of its tokens."""

    def __init__(self, form: CallForm, names: Sequence[str]) -> None:
        self._form, self._names = form, names
        self._text = ""  # that a call may have begun in; a character a byte
        self._bare = form.bare

    def begun_with(self, token: bytes) -> bytes | None:
        """What of the text belongs to the calls, once they have begun."""
        self._text += token.decode("latin-1")
        tag = self._form.tag
        if tag and (begin := self._text.find(tag)) >= 0:
            return self._text[begin:].encode("latin-1")
        if self._bare:
            quoted = self._form.head.partition(NAME)[0] + NAME + '"'
            found = match(quoted, self._text, self._names)
            if found is not None and found.end is not None:
                return self._text.lstrip().encode("latin-1")
            self._bare = found is not None
        if not self._bare:
            self._text = self._text[max(0, len(self._text) - len(tag) + 1) :]
        return None
