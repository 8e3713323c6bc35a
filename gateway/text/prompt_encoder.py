"""What strangers send, turned into a model's tokens, and tokens into text, in processes with bounds."""

import base64
import threading
from array import array
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from gateway.errors import InvalidRequest
from gateway.text.sandbox import BoundExceeded, Sandbox

SECONDS = 2.0  # of processor time for one prompt; a megabyte of prose takes half a second
MEMORY = 176 << 20  # bytes, besides what a process takes by itself; enough for a megabyte of most texts
Json = dict[str, Any]
LARGE = 1 << 17  # characters or tokens
PROCESSES = 2  # of a model: the second one begins where the first is busy, so one key's megabyte keeps nobody else waiting


class PromptEncoder:
    """See gateway/text/prompt_process.py. Blocks; threads may share it. ``InvalidRequest`` names ``param``."""

    def __init__(self, tokenizer_json: str, chat_template: str | None) -> None:
        setup = {"tokenizer": tokenizer_json, "chat_template": chat_template}
        self._sandbox = Sandbox("gateway.text.prompt_process", setup, seconds=SECONDS, memory=MEMORY, processes=PROCESSES)

    def start(self) -> None:
        """Begins a process in the background, so that no request waits for it."""
        threading.Thread(target=self._try, name="prompt-process", daemon=True).start()

    def encode(self, text: str, *, param: str, add_special_tokens: bool) -> list[int]:
        """Raises InvalidRequest."""
        return self._tokens(len(text) > LARGE, text=text, param=param, add_special_tokens=add_special_tokens)

    def encode_conversation(
        self, messages: list[Json], tools: list[Json] | None = None, *, param: str, add_generation_prompt: bool
    ) -> list[int]:
        """``messages`` and ``tools`` as transformers passes them to templates. Raises InvalidRequest, also where the chat
        template refuses them."""
        large = sum(len(message["content"]) for message in messages) + len(str(tools)) > LARGE
        return self._tokens(large, messages=messages, tools=tools, param=param, add_generation_prompt=add_generation_prompt)

    def call_form(self) -> str:
        """The name of the form (tool_calls.py) in which the model writes calls of tools. Raises InvalidRequest."""
        try:
            return str(self._sandbox.ask({"form": True})["form"])
        except BoundExceeded as error:
            raise InvalidRequest("tools: this model's chat template cannot be read within its bounds", param="tools") from error

    def decode(self, tokens: list[int], *, param: str) -> str:
        """Special tokens are shown by their names. Raises InvalidRequest."""
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
    """As both sides write them: 32-bit integers in base64."""
    return base64.b64encode(array("i", tokens)).decode()


def unpack(packed: str) -> list[int]:
    return array("i", base64.b64decode(packed)).tolist()
