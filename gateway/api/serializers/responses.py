"""The form of /v1/responses: whole, and as its sequence of named events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gateway.api.response_models import InputDetails, Logprob, OutputMessage, OutputText, Response
from gateway.api.schemas import ResponsesBody
from gateway.api.serializers.common import Identity, Tally, logprob_objects, new_id
from gateway.engine.generation import Delta, FinishReason
from gateway.text.model import Model

PLACE = {"output_index": 0, "content_index": 0}  # one message, one text in it


class ResponseSerializer:
    def __init__(self, body: ResponsesBody, model: Model, prompts: list[list[int]]) -> None:
        self._body = body
        self._identity = Identity.new("resp_", model)
        self._message_id = new_id("msg_")
        self._tally = Tally(prompts, copies=1)

    def whole(self, answers: list[Delta]) -> Response:
        (answer,) = answers
        self._tally.note(answer)
        assert answer.finish_reason is not None
        return self._ended(answer.text, logprob_objects(answer.logprobs), answer.finish_reason)

    async def events(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[dict[str, Any], None]:
        """sequence_number is added where they are sent."""
        item = {"item_id": self._message_id}
        yield {"type": "response.created", "response": self._response()}
        yield {"type": "response.in_progress", "response": self._response()}
        yield {"type": "response.output_item.added", "output_index": 0, "item": self._message("in_progress", [])}
        yield {"type": "response.content_part.added", **item, **PLACE, "part": _output_text("", [])}
        text: list[str] = []
        logprobs: list[Logprob] = []
        finish_reason: FinishReason = "stop"
        async for delta in deltas:
            self._tally.note(delta)
            finish_reason = delta.finish_reason or finish_reason
            if delta.text or delta.logprobs:
                new = logprob_objects(delta.logprobs)
                text.append(delta.text)
                logprobs += new
                yield {"type": "response.output_text.delta", **item, **PLACE, "delta": delta.text, "logprobs": new}
        ended = self._ended("".join(text), logprobs, finish_reason)
        message = ended["output"][0]
        part = message["content"][0]
        yield {"type": "response.output_text.done", **item, **PLACE, "text": part["text"], "logprobs": logprobs}
        yield {"type": "response.content_part.done", **item, **PLACE, "part": part}
        yield {"type": "response.output_item.done", "output_index": 0, "item": message}
        yield {"type": f"response.{ended['status']}", "response": ended}

    def _ended(self, text: str, logprobs: list[Logprob], finish_reason: FinishReason) -> Response:
        complete = finish_reason == "stop"
        response = self._response()
        response["status"] = "completed" if complete else "incomplete"
        response["completed_at"] = int(time.time()) if complete else None
        response["incomplete_details"] = None if complete else {"reason": "max_output_tokens"}
        response["output"] = [self._message("completed" if complete else "incomplete", [_output_text(text, logprobs)])]
        details: InputDetails = {"cached_tokens": self._tally.cached_tokens, "cache_write_tokens": 0}
        response["usage"] = {
            "input_tokens": self._tally.prompt_tokens,
            "input_tokens_details": details,
            "output_tokens": self._tally.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._tally.total_tokens,
        }
        return response

    def _message(self, status: Any, content: list[OutputText]) -> OutputMessage:
        return {"id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self) -> Response:
        """As it is at its beginning."""
        body = self._body
        return {
            "id": self._identity.id,
            "object": "response",
            "created_at": self._identity.created,
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "model": self._identity.model,
            "system_fingerprint": self._identity.fingerprint,
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
