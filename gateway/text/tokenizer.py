"""Text ↔ tokens: encoding, chat templates, and decoding that never shows partial characters or partial stop strings."""

import json
from typing import Any

import tokenizers

from gateway.errors import InvalidRequest
from gateway.text.detokenizer import LibraryPanic, TokenStream, detokenizer_of, guarded
from gateway.text.prompt_encoder import PromptEncoder
from gateway.text.stop_strings import StopStrings
from gateway.text.unknown_characters import unknown_character


class Tokenizer:
    """A model's tokenizer.json and chat template, as Triton describes them."""

    def __init__(self, tokenizer_json: str, chat_template: str | None) -> None:
        self._tokenizer = guarded(tokenizers.Tokenizer.from_str, tokenizer_json)
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_names = {number: token.content for number, token in added.items() if token.special}
        self.special_tokens = list(self.special_names)
        self._detokenizer = detokenizer_of(self._tokenizer, json.loads(tokenizer_json).get("decoder"))
        self._texts: dict[int, str] = {}
        self.has_chat_template = bool(chat_template)
        self.prompts = PromptEncoder(tokenizer_json, chat_template)

    def encode(self, text: str, *, param: str = "prompt", add_special_tokens: bool = True, rendered: bool = False) -> list[int]:
        """Encodes trusted text; use ``prompts``, which limits resources, for untrusted text. Special tokens are recognised by
        their text. ``rendered``: the text is a rendered conversation, not the parameter itself. Raises InvalidRequest."""
        try:
            text.encode()  # raises on lone surrogates
            # This method releases the GIL and does not track offsets.
            encode = self._tokenizer.encode_batch_fast
            return list(guarded(encode, [text], add_special_tokens=add_special_tokens)[0].ids)
        except MemoryError:
            raise
        except UnicodeEncodeError as exc:
            raise InvalidRequest(
                f"{param}: holds half of a surrogate pair, it must be valid Unicode text", param=param
            ) from exc
        except LibraryPanic as exc:
            raise InvalidRequest(f"{param}: this model's tokenizer cannot take this text", param=param) from exc
        except Exception as exc:  # the library raises bare Exceptions
            unknown = unknown_character(self._tokenizer, text, rendered=rendered)
            raise InvalidRequest(f"{param}: {unknown}", param=param) from exc

    def decode(self, tokens: list[int], *, skip_special_tokens: bool = True) -> str:
        """Decodes tokens, all within the vocabulary. Partial characters become U+FFFD."""
        return self._detokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """Returns what a token adds to a text, in UTF-8: often a partial character or a word with its space. For a special
        token, its name; for an id without a token, nothing."""
        return self._detokenizer.token_bytes(token)

    def token_text(self, token: int) -> str:
        if token not in self._texts:  # cached: responses with log-probabilities contain many
            self._texts[token] = self.token_bytes(token).decode(errors="replace")
        return self._texts[token]

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        variables: dict[str, Any] | None = None,
        param: str = "messages",
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Returns the tokens of a conversation, up to the start of the assistant's answer. Raises InvalidRequest."""
        if not self.has_chat_template:
            raise InvalidRequest(f"{param}: this model has no chat template", param=param)
        return self.prompts.encode_conversation(
            messages, tools, variables, param=param, add_generation_prompt=add_generation_prompt
        )

    def decode_stream(
        self, prompt_tokens: list[int], stop: tuple[str, ...] = (), visible: frozenset[int] = frozenset()
    ) -> "TextStream":
        """Returns a stream for the tokens after a prompt. Stop strings may contain special tokens by name. ``visible``: special
        tokens to show in the text."""
        stops = StopStrings(stop, self.special_names) if stop else None
        return TextStream(
            self._detokenizer.stream(prompt_tokens), stops, {token: self.special_names[token] for token in visible}
        )


class TextStream:
    """Decodes generated tokens incrementally; the pieces joined are the whole text.

    Text is held back while it is a partial character or may become one of the ``stop`` strings. The text ends before the first
    stop string found.
    """

    def __init__(self, stream: TokenStream, stop: StopStrings | None, visible: dict[int, str]) -> None:
        """``visible``: special tokens to show, with their names."""
        self._stream, self._stop, self._visible = stream, stop, visible
        self.shown = 0  # characters

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return None if self._stop is None else self._stop.found

    @property
    def stopped(self) -> bool:
        return self.stop_string is not None

    @property
    def decoded(self) -> int:
        """Characters decoded so far, including held-back text."""
        return self.shown + (self._stop.held if self._stop is not None else 0)

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Takes the next token and returns the text that is now safe to show, often empty.

        If not ``may_stop``, shows everything decoded, ignoring a stop string that ends here.
        """
        text = self._stream.push(token) + self._visible.get(token, "")
        if self._stop is None:
            return self._show(text)
        return self._show(self._stop.feed(text, token) if may_stop else self._stop.finish() + text)

    def extend(self, tokens: list[int]) -> str:
        """Like `push`, for a list of tokens. Only for streams without stop strings."""
        if self._visible and not self._visible.keys().isdisjoint(tokens):
            return "".join(map(self.push, tokens))
        return self._show(self._stream.extend(tokens))

    def finish(self, end_token: int | None = None) -> str:
        """Returns the rest of the text, when no token follows or only an end token. A partial stop string is shown after all, a
        partial character never."""
        if self.stopped:
            return ""
        text = self._stream.finish()
        if self._stop is not None:
            text = self._stop.feed(text, end_token) + self._stop.finish()
        return self._show(text)

    def _show(self, text: str) -> str:
        self.shown += len(text)
        return text
