"""Text ↔ tokens: encoding, chat templates, and decoding that never shows half a character or a piece of a stop string."""

import json
import re

import tokenizers
from tokenizers.decoders import DecodeStream

from gateway.errors import InvalidRequest
from gateway.prompt_encoder import PromptEncoder

HALF_CHARACTER = "\ufffd"  # what a decoder makes of one
WORD_BEGIN = "▁"  # SentencePiece's space
CONTEXT_TOKENS = 8  # of the prompt, for decoders that join words by what stands before them


def _byte_of() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for: printable ones for themselves, the others for 256 and up
    in order. Source: GPT-2's encoder.py, bytes_to_unicode."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_of()


class Tokenizer:
    """A model's tokenizer.json and chat template, as Triton describes them."""

    def __init__(self, tokenizer_json: str, chat_template: str | None) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {number: token.content for number, token in added.items()}
        self.special_tokens = [number for number, token in added.items() if token.special]
        decoder = json.dumps(json.loads(tokenizer_json).get("decoder"), ensure_ascii=False)
        self._is_byte_level = '"ByteLevel"' in decoder
        self._has_byte_fallback = '"ByteFallback"' in decoder
        self._space = WORD_BEGIN if WORD_BEGIN in decoder else " "  # how this vocabulary writes a space
        self.has_chat_template = bool(chat_template)
        self.prompts = PromptEncoder(tokenizer_json, chat_template)

    def encode(self, text: str, *, param: str = "prompt", add_special_tokens: bool = True) -> list[int]:
        """Tokens of a text to be trusted; strangers' go to ``prompts``, which has bounds. Special tokens are recognised by
        their text. Raises InvalidRequest."""
        try:
            text.encode()  # for its exception
            # Of all ways to encode, this one lets other threads run meanwhile, and tracks no offsets.
            return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except MemoryError:
            raise
        except UnicodeEncodeError as exc:
            raise InvalidRequest(
                f"{param}: holds half of a surrogate pair, it must be valid Unicode text", param=param
            ) from exc
        except Exception as exc:  # the library raises bare Exceptions
            raise InvalidRequest(f"{param}: holds a character that is not in this model's vocabulary", param=param) from exc

    def decode(self, tokens: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens, each within the vocabulary; what is no whole character is U+FFFD."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text, in UTF-8: often half a character or a word with its space. A special token's is its
        name; an id without a token has none."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._is_byte_level:
            return bytes(BYTE_OF[character] for character in piece)
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece) if self._has_byte_fallback else None
        return bytes.fromhex(byte[1]) if byte else piece.replace(self._space, " ").encode()

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode(errors="replace")

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, param: str = "messages", add_generation_prompt: bool = True
    ) -> list[int]:
        """Tokens of a conversation, up to where the assistant's answer begins. Raises InvalidRequest."""
        if not self.has_chat_template:
            raise InvalidRequest(f"{param}: this model has no chat template", param=param)
        return self.prompts.encode_conversation(messages, param=param, add_generation_prompt=add_generation_prompt)

    def decode_stream(self, prompt_tokens: list[int], stop: tuple[str, ...] = ()) -> "TextStream":
        return TextStream(self._tokenizer, prompt_tokens, stop)


class TextStream:
    """Turns generated tokens into text, piece by piece; the pieces joined are the whole text.

    A piece is held back while it is half a character, or while it may become one of the ``stop`` strings. ``stopped`` turns
    true when one is found; the text then ends before it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt_tokens: list[int], stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._context = prompt_tokens[-CONTEXT_TOKENS:]
        if tokenizer.decode(self._context, skip_special_tokens=True).endswith(HALF_CHARACTER):
            self._context = []  # the stream would wait for the rest of that character, and then show the context itself
        self._stream = DecodeStream(ids=self._context, skip_special_tokens=True)
        self._undecoded: list[int] = []  # tokens since the stream last gave text
        self._stop = stop
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.stopped = False
        self.shown = 0  # characters

    @property
    def decoded(self) -> int:
        """Characters of the text so far, those held back too."""
        return self.shown + len(self._held)

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Takes the next token and returns the text that is now safe to show, often empty.

        Where it may not stop, what is decoded is shown: a stop string that ends there counts for nothing.
        """
        self._undecoded.append(token)
        text = self._stream.step(self._tokenizer, token)
        if text is None:
            return ""
        self._context = (self._context + self._undecoded)[-CONTEXT_TOKENS:]
        self._undecoded = []
        return self._show(self._without_stop(text) if may_stop else text)

    def finish(self) -> str:
        """The rest, when no token follows: a beginning of a stop string is shown after all, half a character never."""
        if self.stopped:
            return ""
        before = self._tokenizer.decode(self._context, skip_special_tokens=True)
        whole = self._tokenizer.decode(self._context + self._undecoded, skip_special_tokens=True)
        text = self._without_stop(whole[len(before) :].rstrip(HALF_CHARACTER) if self._undecoded else "")
        rest, self._held = ("" if self.stopped else self._held), ""
        return self._show(text + rest)

    def _show(self, text: str) -> str:
        self.shown += len(text)
        return text

    def _without_stop(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
