"""Finds added tokens in text, in plain Python, to check the tokenizers library against.

The library makes two passes: first over the raw text for tokens that are not normalized, then over the rest for the others. It
finds the leftmost match, and the longest of those that start there. If that one must be a single word but is not, it tries no
shorter one.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken

BLANKS = re.compile(r"[^\S\x1c-\x1f]*")  # what Unicode, and so the library, considers white space
WORD = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"}  # the categories of a word's characters
JOINERS = "\u200c\u200d"  # of words too


class AddedTokens:
    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        tokens = [token for token in tokens if token.content]
        self._passes = [_Finder(token for token in tokens if token.normalized is normalized) for normalized in (False, True)]

    def split(self, text: str) -> list[str | AddedToken]:
        """The tokens, and the text between them."""
        pieces: list[str | AddedToken] = [text]
        for finder in self._passes:
            pieces = [part for piece in pieces for part in (finder.split(piece) if isinstance(piece, str) else [piece])]
        return pieces


class _Finder:
    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        lengths: dict[str, set[int]] = defaultdict(set)
        for content in self._tokens:
            lengths[content[0]].add(len(content))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, lengths))}]" if lengths else r"(?!)")

    def split(self, text: str) -> Iterator[str | AddedToken]:
        end = 0
        for start, token in self._matches(text):
            stop = start + len(token.content)
            if token.single_word and (_is_word(text[max(0, start - 1) : start]) or _is_word(text[stop : stop + 1])):
                continue
            if token.lstrip:
                start = max(end, start - _blanks(text[end:start][::-1]))
            if token.rstrip:
                stop += _blanks(text, stop)
            if end < start:
                yield text[end:start]
            yield token
            end = stop
        if end < len(text):
            yield text[end:]

    def _matches(self, text: str) -> Iterator[tuple[int, AddedToken]]:
        place = 0
        while found := self._first.search(text, place):
            place = found.start()
            contents = (text[place : place + length] for length in self._lengths[found[0]])
            token = next((self._tokens[content] for content in contents if content in self._tokens), None)
            if token:
                yield place, token
            place += len(token.content) if token else 1


def _blanks(text: str, place: int = 0) -> int:
    match = BLANKS.match(text, place)
    return match.end() - place if match else 0


def _is_word(character: str) -> bool:
    return bool(character) and (unicodedata.category(character) in WORD or character in JOINERS)
