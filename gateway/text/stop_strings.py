"""Finds stop strings in streamed text, and holds back text that may become one."""

import re
from itertools import islice
from operator import itemgetter

# Marks for special tokens, which the text leaves out: lone surrogates, which no text contains.
FIRST_MARK, LAST_MARK = 0xD800, 0xDFFF
MARK = re.compile(f"[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]")


class StopStrings:
    """``special_tokens``: their names, which the strings may contain. ``found``: the stop string that was found, if any."""

    def __init__(self, strings: tuple[str, ...], special_tokens: dict[int, str]) -> None:
        self._strings, self._special_tokens = strings, special_tokens
        self._marks: dict[str, str] = {}  # marks of the special tokens seen so far, by name
        self._marked: list[str] = []  # the stop strings with these names replaced by marks
        self._text = ""  # decoded but not shown, with marks
        self.held = 0  # characters held back, without marks
        self.found: str | None = None

    def feed(self, text: str, token: int | None = None) -> str:
        """Takes the next piece of text and the token it came from. Returns the text that can be shown."""
        text = self._text + text
        if token in self._special_tokens:
            text += self._mark(self._special_tokens[token])
        visible = _visible(text) if self._marked else text
        ends = [(place, string) for string in self._strings if (place := visible.find(string)) >= 0]
        for string, marked in zip(self._strings, self._marked, strict=False):  # none is marked before a special token comes
            if (place := text.find(marked)) >= 0:
                ends.append((len(_visible(text[:place])), string))
        if ends:
            end, self.found = min(ends, key=itemgetter(0))
            self._text, self.held = "", 0
            return visible[:end]
        begin = min(_begin(visible, string) for string in self._strings)
        if self._marked:
            begin = min(_with_marks(text, begin), *(_begin(text, string) for string in self._marked))
        self._text = text[begin:]
        self.held = len(_visible(self._text)) if self._marked else len(self._text)
        return visible[: len(visible) - self.held]

    def _mark(self, name: str) -> str:
        """Returns the mark of a special token, or nothing if no stop string contains it."""
        if name not in self._marks:
            if not any(name in string for string in self._strings):
                return ""
            self._marks[name] = chr(min(FIRST_MARK + len(self._marks), LAST_MARK))
            self._marked = [_replaced(string, self._marks) for string in self._strings]
        return self._marks[name]

    def finish(self) -> str:
        """Returns the held-back text when no text follows: a partial stop string is shown after all."""
        rest = _visible(self._text)
        self._text, self.held = "", 0
        return rest


def _visible(text: str) -> str:
    return MARK.sub("", text)


def _replaced(string: str, names: dict[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        string = string.replace(name, names[name])
    return string


def _with_marks(text: str, visible: int) -> int:
    """Returns the index in ``text`` of its visible character number ``visible``."""
    places = (place for place, character in enumerate(text) if not MARK.match(character))
    return next(islice(places, visible, None), len(text))


def _begin(text: str, stop: str) -> int:
    """Returns where the longest suffix of ``text`` starts that is a prefix of ``stop``."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0 and not stop.startswith(text[place:]):
        place = text.find(stop[0], place + 1)
    return place if place >= 0 else len(text)
