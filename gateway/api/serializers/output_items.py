"""Output items of /v1/responses: messages and calls, with the events that stream them."""

from collections.abc import Callable
from typing import Any, Literal

from gateway.api.response_models import Logprob, OutputCall, OutputMessage, OutputText
from gateway.api.serializers.common import new_id
from gateway.text.tool_reader import CallBegun

Status = Literal["in_progress", "completed", "incomplete"]
Write = Callable[..., bytes]  # encodes an event from its name and fields


class MessageItem:
    def __init__(self, write: Write, index: int) -> None:
        self._write, self._index, self._id = write, index, new_id("msg_")
        self._text, self._logprobs = "", list[Logprob]()

    def begin(self) -> bytes:
        added = self._write("output_item.added", output_index=self._index, item=self._message("in_progress", []))
        return added + self._write_of_text("content_part.added", part=_output_text("", []))

    def grow(self, text: str, logprobs: list[Logprob]) -> bytes:
        self._text += text
        self._logprobs += logprobs
        return self._write_of_text("output_text.delta", delta=text, logprobs=logprobs)

    def end(self, status: Status) -> bytes:
        part = _output_text(self._text, self._logprobs)
        return (
            self._write_of_text("output_text.done", text=self._text, logprobs=self._logprobs)
            + self._write_of_text("content_part.done", part=part)
            + self._write("output_item.done", output_index=self._index, item=self.item(status))
        )

    def item(self, status: Status) -> OutputMessage:
        return self._message(status, [_output_text(self._text, self._logprobs)])

    def _message(self, status: Status, content: list[OutputText]) -> OutputMessage:
        return {"id": self._id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _write_of_text(self, name: str, **fields: Any) -> bytes:
        return self._write(name, item_id=self._id, output_index=self._index, content_index=0, **fields)  # one message, one text


class CallItem:
    def __init__(self, write: Write, index: int, call: CallBegun) -> None:
        self._write, self._index, self._id, self._call = write, index, new_id("fc_"), call
        self._arguments = ""

    def begin(self) -> bytes:
        return self._write("output_item.added", output_index=self._index, item=self.item("in_progress"))

    def grow(self, arguments: str) -> bytes:
        self._arguments += arguments
        return self._write_of_call("delta", delta=arguments) if arguments else b""

    def end(self, status: Status) -> bytes:
        done = self._write_of_call("done", name=self._call.name, arguments=self._arguments)
        return done + self._write("output_item.done", output_index=self._index, item=self.item(status))

    def item(self, status: Status) -> OutputCall:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call.id,
            "name": self._call.name,
            "arguments": self._arguments,
        }

    def _write_of_call(self, event: str, **fields: Any) -> bytes:
        return self._write(f"function_call_arguments.{event}", item_id=self._id, output_index=self._index, **fields)


def _output_text(text: str, logprobs: list[Logprob]) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
