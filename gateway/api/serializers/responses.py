"""The form of /v1/responses: whole, and as its sequence of named events."""

import time
from collections import defaultdict
from typing import Any

from gateway.api.response_models import InputDetails, Logprob, OutputMessage, OutputText, Response
from gateway.api.schemas import ResponsesBody
from gateway.api.serializers.common import Event, Serializer, envelope, logprob_objects, named_event, new_id
from gateway.engine.generation import Delta, GenerationRecord
from gateway.text.model import Model

# OpenAI's few codes of a response that failed, by the type that an error has elsewhere.
RESPONSE_ERRORS = defaultdict(
    lambda: "server_error", invalid_request_error="invalid_prompt", rate_limit_error="rate_limit_exceeded"
)


class ResponseSerializer(Serializer):
    """Of a stream, every event has its name in a line of its own, and a number; the last one is the end."""

    def __init__(self, body: ResponsesBody, model: Model, record: GenerationRecord) -> None:
        self._body, self._record = body, record
        self._identity = envelope("resp_", "response", model)
        self._message_id = new_id("msg_")
        self._sent = 0
        self._text, self._all_logprobs = "", list[Logprob]()

    def whole(self, answers: list[Delta]) -> Response:
        (answer,) = answers
        return self._ended(answer.text, logprob_objects(answer.logprobs))

    def begin(self) -> bytes:
        return (
            self._event("created", response=self._response())
            + self._event("in_progress", response=self._response())
            + self._event("output_item.added", output_index=0, item=self._message("in_progress", []))
            + self._event_of_text("content_part.added", part=_output_text("", []))
        )

    def events(self, delta: Delta) -> bytes:
        if not delta.text and not delta.logprobs:
            return b""
        logprobs = logprob_objects(delta.logprobs)
        self._text += delta.text
        self._all_logprobs += logprobs
        return self._event_of_text("output_text.delta", delta=delta.text, logprobs=logprobs)

    def end(self) -> bytes:
        ended = self._ended(self._text, self._all_logprobs)
        message = ended["output"][0]
        part = message["content"][0]
        return (
            self._event_of_text("output_text.done", text=part["text"], logprobs=self._all_logprobs)
            + self._event_of_text("content_part.done", part=part)
            + self._event("output_item.done", output_index=0, item=message)
            + self._event(ended["status"], response=ended)
        )

    def failure(self, error: Event) -> bytes:
        reported = {"code": RESPONSE_ERRORS[error["error"]["type"]], "message": error["error"]["message"]}
        return self._event("failed", response=self._response() | {"status": "failed", "error": reported})

    def _event(self, name: str, **fields: Any) -> bytes:
        event = {"type": f"response.{name}", **fields, "sequence_number": self._sent}
        self._sent += 1
        return named_event(event)

    def _event_of_text(self, name: str, **fields: Any) -> bytes:
        return self._event(name, item_id=self._message_id, output_index=0, content_index=0, **fields)  # one message, one text

    def _ended(self, text: str, logprobs: list[Logprob]) -> Response:
        complete = self._record.finish_reasons == ["stop"]
        response = self._response()
        response["status"] = "completed" if complete else "incomplete"
        response["completed_at"] = int(time.time()) if complete else None
        response["incomplete_details"] = None if complete else {"reason": "max_output_tokens"}
        response["output"] = [self._message("completed" if complete else "incomplete", [_output_text(text, logprobs)])]
        details: InputDetails = {"cached_tokens": self._record.cached_tokens, "cache_write_tokens": 0}
        response["usage"] = {
            "input_tokens": self._record.prompt_tokens,
            "input_tokens_details": details,
            "output_tokens": self._record.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._record.total_tokens,
        }
        return response

    def _message(self, status: Any, content: list[OutputText]) -> OutputMessage:
        return {"id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self) -> Response:
        """As it is at its beginning."""
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
            "text": {"format": body.text.format.told_back()},
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "presence_penalty": body.presence_penalty,
            "frequency_penalty": body.frequency_penalty,
            "truncation": "disabled",
            "tools": [],
            "tool_choice": body.tool_choice,
            "parallel_tool_calls": body.parallel_tool_calls,
            "background": False,
            "store": False,  # whatever was asked: nothing is stored
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "metadata": body.metadata,
            "user": body.user or None,
        }


def _output_text(text: str, logprobs: list[Logprob]) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
