"""Response format of /v1/responses: whole, and as its sequence of named events."""

import time
from collections import defaultdict
from typing import Any

from gateway.api.response_models import InputDetails, Logprob, Response
from gateway.api.schemas import ResponsesBody
from gateway.api.serializers.common import Event, Serializer, envelope, logprob_objects, named_event
from gateway.api.serializers.output_items import CallItem, MessageItem, Status
from gateway.engine.generation import Delta, GenerationRecord
from gateway.text.model import Model
from gateway.text.tool_reader import CallArguments, CallBegun, Piece

# OpenAI's error codes of a failed response, by our error type.
RESPONSE_ERRORS = defaultdict(
    lambda: "server_error", invalid_request_error="invalid_prompt", rate_limit_error="rate_limit_exceeded"
)


class ResponseSerializer(Serializer):
    """In a stream, each event has an ``event:`` line and a sequence number; the last event ends the stream."""

    def __init__(self, body: ResponsesBody, model: Model, record: GenerationRecord) -> None:
        self._body, self._record = body, record
        self._identity = envelope("resp_", "response", model)
        self._reader = None if body.tool_use is None else model.tools.reader(body.tool_use)
        self._items: list[MessageItem | CallItem] = []
        self._sent = 0

    def whole(self, answers: list[Delta]) -> Response:
        (answer,) = answers
        self._grow(answer)
        self._finish()
        return self._ended()

    def begin(self) -> bytes:
        """Returns the first events. Without tools, the first item is always a message and can start now."""
        begun = self._event("created", response=self._response()) + self._event("in_progress", response=self._response())
        return begun + (self._begin(MessageItem(self._event, 0)) if self._reader is None else b"")

    def events(self, delta: Delta) -> bytes:
        return self._grow(delta)

    def end(self) -> bytes:
        events, ended = self._finish(), self._ended()
        return events + self._event(ended["status"], response=ended)

    def failure(self, error: Event) -> bytes:
        reported = {"code": RESPONSE_ERRORS[error["error"]["type"]], "message": error["error"]["message"]}
        return self._event("failed", response=self._response() | {"status": "failed", "error": reported})

    def _event(self, event: str, /, **fields: Any) -> bytes:
        numbered = {"type": f"response.{event}", **fields, "sequence_number": self._sent}
        self._sent += 1
        return named_event(numbered)

    def _grow(self, delta: Delta) -> bytes:
        if self._reader is not None:
            return b"".join(self._grow_by(piece, []) for piece in self._reader.feed(delta.text))
        return self._grow_by(delta.text, logprob_objects(delta.logprobs)) if delta.text or delta.logprobs else b""

    def _grow_by(self, piece: Piece, logprobs: list[Logprob]) -> bytes:
        """Adds a piece to the last item, or starts a new item for it."""
        last, begun = self._items[-1] if self._items else None, b""
        if isinstance(piece, CallBegun):
            return self._begin(CallItem(self._event, len(self._items), piece))
        if isinstance(piece, CallArguments):
            return last.grow(piece.text) if isinstance(last, CallItem) else b""
        if not isinstance(last, MessageItem):
            last = MessageItem(self._event, len(self._items))
            begun = self._begin(last)
        return begun + last.grow(piece, logprobs)

    def _begin(self, item: "MessageItem | CallItem") -> bytes:
        """Ends the previous item and starts ``item``."""
        ended = self._items[-1].end("completed") if self._items else b""
        self._items.append(item)
        return ended + item.begin()

    def _finish(self) -> bytes:
        events = b"".join(self._grow_by(piece, []) for piece in self._reader.finish()) if self._reader else b""
        if not self._items:
            events += self._begin(MessageItem(self._event, 0))
        return events + self._items[-1].end(self._status)

    @property
    def _status(self) -> Status:
        complete = self._record.finish_reasons == ["stop"] or (self._reader is not None and self._reader.whole)
        return "completed" if complete else "incomplete"

    def _ended(self) -> Response:
        complete = self._status == "completed"
        response = self._response()
        response["status"] = "completed" if complete else "incomplete"
        response["completed_at"] = int(time.time()) if complete else None
        response["incomplete_details"] = None if complete else {"reason": "max_output_tokens"}
        response["output"] = [item.item("completed") for item in self._items[:-1]] + [self._items[-1].item(self._status)]
        details: InputDetails = {"cached_tokens": self._record.cached_tokens, "cache_write_tokens": 0}
        response["usage"] = {
            "input_tokens": self._record.prompt_tokens,
            "input_tokens_details": details,
            "output_tokens": self._record.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._record.total_tokens,
        }
        return response

    def _response(self) -> Response:
        """Returns the response in its initial state."""
        body = self._body
        return {
            "id": self._identity["id"],
            "object": "response",
            "created_at": self._identity["created"],
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "model": self._identity["model"],
            "system_fingerprint": self._identity["system_fingerprint"],
            "output": [],
            "usage": None,
            "text": {"format": body.text.format.echoed()},
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "presence_penalty": body.presence_penalty,
            "frequency_penalty": body.frequency_penalty,
            "truncation": "disabled",
            "tools": [tool.echoed() for tool in body.tools],
            "tool_choice": body.tool_choice.echoed(),
            "parallel_tool_calls": body.parallel_tool_calls,
            "background": False,
            "store": False,  # whatever the request says: nothing is stored
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "metadata": body.metadata,
            "user": body.user or None,
        }
