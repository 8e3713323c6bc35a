"""Response format of /v1/messages: whole, and as Anthropic's sequence of named events."""

import sys
from typing import Any

from pydantic_core import from_json

from gateway.api.anthropic_models import AnthropicMessage, MessageUsage, OutputBlock, StopReason, TextBlock, ToolUseBlock
from gateway.api.schemas import MessagesBody
from gateway.api.serializers.common import Event, Serializer, named_event, new_id
from gateway.engine.generation import Delta, GenerationRecord
from gateway.text.model import Model
from gateway.text.tool_reader import CallArguments, CallBegun, Piece, read_all


class MessageSerializer(Serializer):
    """In a stream, each content block starts, grows and stops before the next one starts."""

    def __init__(self, body: MessagesBody, model: Model, record: GenerationRecord) -> None:
        self._model, self._record = model.name, record
        self._reader = None if body.tool_use is None else model.tools.reader(body.tool_use)
        self._id = new_id("msg_")
        self._blocks = 0  # number of blocks started
        self._open: str | None = None  # type of the last block, while it may still grow

    def whole(self, answers: list[Delta]) -> AnthropicMessage:
        (answer,) = answers
        text, calls = (answer.text, []) if self._reader is None else read_all(self._reader, answer.text)
        content: list[OutputBlock] = [_text(text)] if text or not calls else []
        content += [_tool_use(call.id, call.name, call.arguments) for call in calls]
        return self._message(content)

    def begin(self) -> bytes:
        before = {"stop_reason": None, "stop_sequence": None, "usage": self._usage() | {"output_tokens": 0}}
        return _event("message_start", message=self._message([]) | before)

    def events(self, delta: Delta) -> bytes:
        if self._reader is None:
            return self._piece(delta.text)
        pieces = self._reader.feed(delta.text) + (self._reader.finish() if delta.finish_reason is not None else [])
        return b"".join(map(self._piece, pieces))

    def _piece(self, piece: Piece) -> bytes:
        if isinstance(piece, CallBegun):
            return self._begin_block(_tool_use(piece.id, piece.name, ""))
        if isinstance(piece, CallArguments):
            return self._grow({"type": "input_json_delta", "partial_json": piece.text}) if piece.text else b""
        if not piece:
            return b""
        begin = b"" if self._open == "text" else self._begin_block(_text(""))
        return begin + self._grow({"type": "text_delta", "text": piece})

    def end(self) -> bytes:
        events = b"" if self._blocks else self._begin_block(_text(""))
        reason = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        return events + self._stop_block() + _event("message_delta", delta=reason, usage=self._usage()) + _event("message_stop")

    def failure(self, error: Event) -> bytes:
        return named_event(error)

    def _begin_block(self, block: OutputBlock) -> bytes:
        """Starts a block. A ping follows the start of the first one, as in Anthropic's API."""
        stopped = self._stop_block()
        started = _event("content_block_start", index=self._blocks, content_block=block)
        ping = b"" if self._blocks else _event("ping")
        self._blocks, self._open = self._blocks + 1, block["type"]
        return stopped + started + ping

    def _grow(self, delta: Event) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _stop_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._blocks - 1)

    def _message(self, content: list[OutputBlock]) -> AnthropicMessage:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": self._stop_reason(),
            "stop_sequence": self._stop_sequence(),
            "usage": self._usage(),
        }

    def _stop_reason(self) -> StopReason | None:
        (answer,) = self._record.answers
        if answer.stop_string is not None:
            return "stop_sequence"
        if answer.finish_reason is None:
            return None
        if self._reader is not None and self._reader.whole:
            return "tool_use"
        return "end_turn" if answer.finish_reason == "stop" else "max_tokens"

    def _stop_sequence(self) -> str | None:
        return self._record.answers[0].stop_string

    def _usage(self) -> MessageUsage:
        cached = self._record.cached_tokens
        return {
            "input_tokens": self._record.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._record.completion_tokens,
        }


def _text(text: str) -> TextBlock:
    return {"type": "text", "text": text}


def _tool_use(id: str, name: str, arguments: str) -> ToolUseBlock:
    """Builds a call block."""
    return {"type": "tool_use", "id": id, "name": name, "input": _parsed(arguments) if arguments else {}}


def _parsed(arguments: str) -> dict[str, Any]:
    """Parses a call's arguments; truncated ones as far as they are complete. Empty if Python has no such numbers."""
    try:
        parsed: dict[str, Any] = from_json(arguments, allow_partial=True, allow_inf_nan=False)
    except ValueError:  # an integer of thousands of digits
        return {}
    return {name: _finite(value) for name, value in parsed.items()}


def _finite(value: Any) -> Any:
    """Returns ``value`` with the largest number in place of one that is larger, such as 1e999."""
    if isinstance(value, float):
        return min(max(value, -sys.float_info.max), sys.float_info.max)
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list) else value


def _event(kind: str, **fields: Any) -> bytes:
    return named_event({"type": kind, **fields})
