"""Converts untrusted input to a model's tokens, and tokens to text, in resource-limited processes."""

import base64
import threading
from array import array
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from gateway.errors import InvalidRequest
from gateway.text.sandbox import BoundExceeded, Sandbox

SECONDS = 2.0  # of processor time for one prompt; a megabyte of prose takes half a second
MEMORY = 176 << 20  # bytes, beyond what a process uses by itself; enough for a megabyte of most texts
Json = dict[str, Any]
LARGE = 1 << 17  # characters or tokens
PROCESSES = 2  # per model: the second starts when the first is busy, so one key's megabyte does not delay others


class PromptEncoder:
    """See gateway/text/prompt_process.py. Blocking and thread-safe. ``InvalidRequest`` names ``param``."""

    def __init__(self, tokenizer_json: str, chat_template: str | None) -> None:
        setup = {"tokenizer": tokenizer_json, "chat_template": chat_template}
        self._sandbox = Sandbox("gateway.text.prompt_process", setup, seconds=SECONDS, memory=MEMORY, processes=PROCESSES)

    def start(self) -> None:
        """Starts a process in the background, so that no request waits for it."""
        threading.Thread(target=self._try, name="prompt-process", daemon=True).start()

    def close(self) -> None:
        """Ends the processes."""
        self._sandbox.close()

    def encode(self, text: str, *, param: str, add_special_tokens: bool) -> list[int]:
        """Returns the tokens of ``text``. Raises InvalidRequest."""
        return self._tokens(len(text) > LARGE, text=text, param=param, add_special_tokens=add_special_tokens)

    def encode_conversation(
        self,
        messages: list[Json],
        tools: list[Json] | None = None,
        variables: Json | None = None,
        *,
        param: str,
        add_generation_prompt: bool,
    ) -> list[int]:
        """Returns the tokens of a conversation. ``messages``, ``tools`` and other ``variables`` are as transformers passes them
        to templates. Raises InvalidRequest, also if the chat template rejects them."""
        large = sum(len(message["content"]) for message in messages) + len(str(tools)) + len(str(variables)) > LARGE
        conversation: Json = {"messages": messages, "tools": tools, "variables": variables or {}}
        return self._tokens(large, **conversation, param=param, add_generation_prompt=add_generation_prompt)

    def call_form(self) -> str:
        """Returns the name of the form (tool_calls.py) in which the model writes tool calls. Raises InvalidRequest."""
        try:
            return str(self._sandbox.ask({"form": True})["form"])
        except BoundExceeded as error:
            raise InvalidRequest("tools: this model's chat template cannot be read within its bounds", param="tools") from error

    def decode(self, tokens: list[int], *, param: str) -> str:
        """Returns the text of tokens, with special tokens by name. Raises InvalidRequest."""
        try:
            return str(self._sandbox.ask({"tokens": pack(tokens)}, fills_memory=len(tokens) > LARGE)["text"])
        except BoundExceeded as error:
            raise InvalidRequest(
                f"{param}: this model's tokenizer cannot decode them within its bounds", param=param
            ) from error

    def _tokens(self, large: bool, *, param: str, **question: Any) -> list[int]:
        try:
            answer = self._sandbox.ask({"param": param} | question, fills_memory=large)
        except BoundExceeded as error:
            fault = "tokenizer cannot encode it within its bounds"
            if "messages" in question:
                fault = "chat template cannot render them within its bounds, or its tokenizer cannot encode what that renders"
            raise InvalidRequest(f"{param}: this model's {fault}", param=param) from error
        if "error" in answer:
            raise InvalidRequest(answer["error"], param=param)
        return unpack(answer["tokens"])

    def _try(self) -> None:
        with suppress(InvalidRequest):
            self.encode("", param="", add_special_tokens=False)


def pack(tokens: Iterable[int]) -> str:
    """Packs tokens as both sides exchange them: 32-bit integers in base64."""
    return base64.b64encode(array("i", tokens)).decode()


def unpack(packed: str) -> list[int]:
    return array("i", base64.b64decode(packed)).tolist()
