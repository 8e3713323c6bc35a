"""Tokens → text according to a tokenizer.json's decoder, with the same result for whole sequences and token by token.

The vocabularies of byte-level BPE (GPT-2, Llama 3, Qwen) and of SentencePiece with byte fallback (Llama 2, Mistral) spell
bytes. These are joined here, so that a partial character is not mistaken for a real U+FFFD, and invalid bytes do not change
the text before them: the library would also replace valid byte tokens next to them. All other decoders use the library.
"""

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn, Protocol

import tokenizers

REPLACEMENT = "\ufffd"  # decoders' replacement for invalid bytes, including partial characters
WORD_BEGIN = "▁"  # SentencePiece's space
CONTEXT_TOKENS = 8  # of the prompt, for decoders that join words depending on what precedes them
WINDOW = 2  # most output tokens kept as context
LONGEST_HALF = 4  # tokens that may wait for the rest of a character, which has at most four bytes
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class LibraryPanic(RuntimeError):
    """The Rust library panicked. It raises a BaseException itself, which ``except Exception`` would not catch."""


def guarded(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls the library. Raises LibraryPanic if it panics."""
    try:
        return call(*arguments, **options)
    except BaseException as exc:
        raise_ordinary(exc)


def raise_ordinary(exc: BaseException) -> NoReturn:
    if isinstance(exc, Exception) or type(exc).__module__ != "pyo3_runtime":  # the panic's class cannot be imported
        raise exc
    raise LibraryPanic(f"the tokenizers library panicked: {exc}") from exc


class TokenStream(Protocol):
    """Decodes tokens incrementally."""

    def push(self, token: int) -> str:
        """Returns the text that is final after this token: it will not change later."""

    def extend(self, tokens: list[int]) -> str:
        """Like `push`, for a list of tokens."""

    def finish(self) -> str:
        """Returns the rest, without a partial character."""


class Detokenizer(Protocol):
    def token_bytes(self, token: int) -> bytes:
        """Returns what a token adds to a text: the name of a special token, nothing for an id without a token."""

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        """Returns the whole text. Partial characters become U+FFFD."""

    def stream(self, prompt: list[int]) -> TokenStream:
        """Returns a stream for the tokens after ``prompt``."""


def detokenizer_of(tokenizer: tokenizers.Tokenizer, decoder: dict[str, Any] | None) -> Detokenizer:
    """``decoder``: as in tokenizer.json."""
    spelling = _Spelling.read(decoder)
    return LibraryDetokenizer(tokenizer, decoder) if spelling is None else ByteDetokenizer(tokenizer, spelling)


def _byte_of() -> dict[str, int]:
    """Maps each character of a byte-level vocabulary to its byte: printable ones to themselves, characters from 256 up to the
    remaining bytes in order. Source: GPT-2's encoder.py, bytes_to_unicode."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_of()


@dataclass(frozen=True)
class _Spelling:
    """How vocabulary entries spell bytes, and what is stripped from the start of the whole text."""

    byte_level: bool = False
    byte_fallback: bool = False
    replaced: tuple[tuple[str, str], ...] = ()  # within each entry
    stripped: str = " "
    most_stripped: int = 0

    @classmethod
    def read(cls, decoder: dict[str, Any] | None) -> "_Spelling | None":
        """Returns None if the decoder does more than join the bytes of tokens."""
        if decoder is None:
            return None  # the library joins tokens by spaces
        steps = _steps(decoder)
        if [step["type"] for step in steps] in (["ByteLevel"], ["ByteLevel", "Fuse"]):
            return cls(byte_level=True)
        replaced, byte_fallback, stripped = [], False, (" ", 0)
        while steps and steps[0]["type"] == "Replace" and steps[0]["pattern"].get("String"):
            step = steps.pop(0)
            replaced.append((step["pattern"]["String"], step["content"]))
        if steps and steps[0]["type"] == "ByteFallback":
            byte_fallback = bool(steps.pop(0))
        if [step["type"] for step in steps] == ["Fuse", "Strip"] and steps[1]["stop"] == 0:
            stripped = (steps[1]["content"], steps[1]["start"])
        elif [step["type"] for step in steps] not in ([], ["Fuse"]):
            return None
        return cls(False, byte_fallback, tuple(replaced), *stripped)

    def begins_at(self, text: str, most_stripped: int) -> int:
        """Returns how many characters to strip from the start."""
        return min(most_stripped, len(text) - len(text.lstrip(self.stripped)))

    def bytes_of(self, entry: str) -> bytes:
        if self.byte_level:
            try:
                return bytes([BYTE_OF[character] for character in entry])
            except KeyError:  # an ordinary word outside the byte alphabet
                return entry.encode()
        for old, new in self.replaced:
            entry = entry.replace(old, new)
        byte = BYTE.fullmatch(entry) if self.byte_fallback else None
        return bytes.fromhex(byte[1]) if byte else entry.encode()


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


class _Table(dict[int, bytes]):
    """Cache of the bytes of each token."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        super().__init__()
        self._bytes_of = bytes_of

    def __missing__(self, token: int) -> bytes:
        found = self[token] = self._bytes_of(token)
        return found


class ByteDetokenizer:
    def __init__(self, tokenizer: tokenizers.Tokenizer, spelling: _Spelling) -> None:
        self._tokenizer, self.spelling = tokenizer, spelling
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._all = _Table(self._bytes_of)
        self.shown = _Table(self._shown_bytes_of)  # none for special tokens

    def token_bytes(self, token: int) -> bytes:
        return self._all[token]

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        table = self.shown if skip_special_tokens else self._all
        text = b"".join(map(table.__getitem__, tokens)).decode(errors="replace")
        return text[self.spelling.begins_at(text, self.spelling.most_stripped) :]

    def stream(self, prompt: list[int]) -> TokenStream:
        return _ByteStream(self, prompt)

    def _entry(self, token: int) -> str:
        return self._tokenizer.id_to_token(token) or ""

    def _bytes_of(self, token: int) -> bytes:
        return self.spelling.bytes_of(self._entry(token))

    def _shown_bytes_of(self, token: int) -> bytes:
        return b"" if self._entry(token) in self._special else self._all[token]


class _ByteStream:
    def __init__(self, detokenizer: ByteDetokenizer, prompt: list[int]) -> None:
        self._bytes, self._spelling = detokenizer.shown, detokenizer.spelling
        self._decode = _utf8_decoder()
        self._to_strip = self._spelling.most_stripped
        for token in prompt:
            if not self._to_strip:
                break
            self.push(token)
        self._stripped(self._decode(b"", True))
        self._decode = _utf8_decoder()  # a partial character at the prompt's end belongs to the prompt

    def push(self, token: int) -> str:
        text = self._decode(self._bytes[token])
        return self._stripped(text) if self._to_strip else text

    def extend(self, tokens: list[int]) -> str:
        text = self._decode(b"".join(map(self._bytes.__getitem__, tokens)))
        return self._stripped(text) if self._to_strip else text

    def finish(self) -> str:
        rest = self._stripped(self._decode(b"", True))
        return "" if rest == REPLACEMENT else rest  # one for a partial character, more for invalid bytes

    def _stripped(self, text: str) -> str:
        begin = self._spelling.begins_at(text, self._to_strip)
        self._to_strip = self._to_strip - begin if begin == len(text) else 0
        return text[begin:]


def _utf8_decoder() -> Callable[..., str]:
    """Returns an incremental decoder that takes bytes and whether they are the last ones."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode


class LibraryDetokenizer:
    """Handles any decoder through the library. If it would change text already shown, streaming goes on from there."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, decoder: dict[str, Any] | None) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token: added_token.content for token, added_token in added.items()}
        self.special = {token for token, added_token in added.items() if added_token.special}
        written = json.dumps(decoder, ensure_ascii=False)
        self.halves = "ByteLevel" in written or "ByteFallback" in written  # whether a token may be a partial character
        space = WORD_BEGIN if WORD_BEGIN in written else " "
        self._spelling = _Spelling("ByteLevel" in written, "ByteFallback" in written, ((space, " "),))

    def token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        return self._spelling.bytes_of(self.tokenizer.id_to_token(token) or "")

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        text: str = guarded(self.tokenizer.decode, tokens, skip_special_tokens)
        return text

    def stream(self, prompt: list[int]) -> TokenStream:
        return _LibraryStream(self, prompt)


class _LibraryStream:
    def __init__(self, detokenizer: LibraryDetokenizer, prompt: list[int]) -> None:
        self._special, self._halves = detokenizer.special, detokenizer.halves
        self._bytes_of = detokenizer.token_bytes
        self._library_decode = detokenizer.tokenizer.decode  # leaves special tokens out
        ordinary = (token for token in reversed(prompt) if token not in self._special)
        self._tokens = list(islice(ordinary, CONTEXT_TOKENS))[::-1]
        self._before = self._text()  # their text, already shown
        self._waiting = 0  # trailing tokens that have produced no text yet
        if self._halves and self._before.endswith(REPLACEMENT):
            self._tokens, self._before = [], ""  # a partial character at the prompt's end belongs to the prompt

    def push(self, token: int) -> str:
        if token in self._special:
            return ""
        self._tokens.append(token)
        text = self._text()
        if self._halves and text.endswith(REPLACEMENT) and self._waiting < LONGEST_HALF:
            self._waiting += 1
            return ""
        return self._show(text)

    def extend(self, tokens: list[int]) -> str:
        return "".join(map(self.push, tokens))

    def finish(self) -> str:
        if not self._waiting:
            return ""
        waiting = b"".join(map(self._bytes_of, self._tokens[-self._waiting :]))
        half = codecs.getincrementaldecoder("utf-8")("replace")
        half.decode(waiting)
        text = self._text()
        return self._show(text.rstrip(REPLACEMENT) if half.getstate()[0] else text)

    def _text(self) -> str:
        try:
            return self._library_decode(self._tokens)
        except BaseException as exc:
            raise_ordinary(exc)

    def _show(self, text: str) -> str:
        same = len(self._before) if text.startswith(self._before) else _same(text, self._before)
        self._before, self._waiting = text, 0
        if len(self._tokens) > WINDOW:
            self._tokens = self._tokens[-1:]
            self._before = self._text()
        return text[same:]


def _same(text: str, other: str) -> int:
    """Returns the length of the common prefix."""
    shorter = min(len(text), len(other))
    return next((place for place in range(shorter) if text[place] != other[place]), shorter)
