"""Text ↔ tokens: encoding, chat templates, and decoding that never shows half a character or a piece of a stop string."""

from datetime import datetime
from typing import Any

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers.decoders import DecodeStream

from gateway.errors import InvalidRequest

HALF_CHARACTER = "\ufffd"  # what a decoder makes of one
CONTEXT_TOKENS = 8  # of the prompt, for decoders that join words by what stands before them


class Tokenizer:
    """A model's tokenizer.json and chat template, as Triton describes them."""

    def __init__(self, tokenizer_json: str, chat_template: str | None) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._template = _compile(chat_template) if chat_template else None

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, *, param: str = "prompt") -> list[int]:
        """Tokens of a plain prompt; special tokens are recognised by their text. Raises InvalidRequest."""
        return self._encode(text, param, add_special_tokens=True)

    def apply_chat_template(self, messages: list[dict[str, str]]) -> list[int]:
        """Tokens of a conversation, up to where the assistant's answer begins. Raises InvalidRequest."""
        if self._template is None:
            raise InvalidRequest("messages: this model has no chat template", param="messages")
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True)
        except jinja2.TemplateError as exc:
            raise InvalidRequest(f"messages: this model's chat template refuses them: {exc}", param="messages") from exc
        except Exception as exc:  # the template is a program: it may fail in any way
            raise InvalidRequest("messages: this model's chat template cannot render them", param="messages") from exc
        return self._encode(text, "messages", add_special_tokens=False)

    def decode_stream(self, prompt_tokens: list[int], stop: tuple[str, ...] = ()) -> "TextStream":
        return TextStream(self._tokenizer, prompt_tokens, stop)

    def _encode(self, text: str, param: str, add_special_tokens: bool) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except UnicodeEncodeError as exc:
            raise InvalidRequest(
                f"{param}: holds half of a surrogate pair, it must be valid Unicode text", param=param
            ) from exc
        except Exception as exc:  # the library raises bare Exceptions
            raise InvalidRequest(f"{param}: holds a character that is not in this model's vocabulary", param=param) from exc


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

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that is now safe to show, often empty."""
        self._undecoded.append(token)
        text = self._stream.step(self._tokenizer, token)
        if text is None:
            return ""
        self._context = (self._context + self._undecoded)[-CONTEXT_TOKENS:]
        self._undecoded = []
        return self._without_stop(text)

    def finish(self) -> str:
        """The rest, when no token follows: a beginning of a stop string is shown after all, half a character never."""
        if self.stopped:
            return ""
        before = self._tokenizer.decode(self._context, skip_special_tokens=True)
        whole = self._tokenizer.decode(self._context + self._undecoded, skip_special_tokens=True)
        text = self._without_stop(whole[len(before) :].rstrip(HALF_CHARACTER) if self._undecoded else "")
        rest, self._held = ("" if self.stopped else self._held), ""
        return text + rest

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


def _compile(chat_template: str) -> jinja2.Template:
    """The template comes with the checkpoint: it runs in Jinja's sandbox, with the settings that templates expect."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(chat_template)


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)
