"""The form of /v1/messages: whole, and as Anthropic's sequence of named events."""

from typing import Any

from gateway.api.anthropic_models import AnthropicMessage, MessageUsage, StopReason, TextBlock
from gateway.api.serializers.common import Event, Serializer, named_event, new_id
from gateway.engine.generation import Delta, GenerationRecord
from gateway.text.model import Model


class MessageSerializer(Serializer):
    """In a stream each block of the content begins, grows and stops before the next one begins."""

    def __init__(self, model: Model, record: GenerationRecord) -> None:
        self._model, self._record = model.name, record
        self._id = new_id("msg_")
        self._blocks = 0  # that have begun
        self._open = False  # whether the last of them may still grow

    def whole(self, answers: list[Delta]) -> AnthropicMessage:
        (answer,) = answers
        return self._message([{"type": "text", "text": answer.text}])

    def begin(self) -> bytes:
        before = {"stop_reason": None, "stop_sequence": None, "usage": self._usage() | {"output_tokens": 0}}
        return _event("message_start", message=self._message([]) | before)

    def events(self, delta: Delta) -> bytes:
        if not delta.text:
            return b""
        begin = b"" if self._open else self._begin_block({"type": "text", "text": ""})
        return begin + self._grow({"type": "text_delta", "text": delta.text})

    def end(self) -> bytes:
        events = b"" if self._blocks else self._begin_block({"type": "text", "text": ""})
        reason = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        return events + self._stop_block() + _event("message_delta", delta=reason, usage=self._usage()) + _event("message_stop")

    def failure(self, error: Event) -> bytes:
        return named_event(error)

    def _begin_block(self, block: Any) -> bytes:
        """Behind the start of the first one comes a ping, as at Anthropic."""
        started = _event("content_block_start", index=self._blocks, content_block=block)
        ping = b"" if self._blocks else _event("ping")
        self._blocks, self._open = self._blocks + 1, True
        return started + ping

    def _grow(self, delta: Event) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _stop_block(self) -> bytes:
        if not self._open:
            return b""
        self._open = False
        return _event("content_block_stop", index=self._blocks - 1)

    def _message(self, content: list[TextBlock]) -> AnthropicMessage:
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


def _event(kind: str, **fields: Any) -> bytes:
    return named_event({"type": kind, **fields})
