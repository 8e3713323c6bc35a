"""``POST /v1/chat/completions``, as OpenAI's clients speak it."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.errors import InvalidRequest
from gateway.generation import Delta
from gateway.model import Model
from gateway.routes.models import engine_named
from gateway.schemas import ChatBody, ChatMessage
from gateway.streaming import Answer, EventStream, complete

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> Response:
    engine = engine_named(request, body.model)
    prompt_tokens = await asyncio.to_thread(_prompt_tokens, engine.model, body.messages)  # a megabyte takes a second
    deltas = engine.generate(body.generation(prompt_tokens))
    writer = _Writer(engine.model, len(prompt_tokens))
    if body.stream:
        return await EventStream.open(request, deltas, lambda pieces: writer.chunks(pieces, body.stream_options.include_usage))
    return JSONResponse(writer.completion(await complete(request, deltas)))


def _prompt_tokens(model: Model, messages: list[ChatMessage]) -> list[int]:
    """The model's chat template renders the messages; for a model without one, the prompt is their contents, a line each."""
    if model.tokenizer.has_chat_template:
        return model.tokenizer.apply_chat_template([message.for_template() for message in messages])
    text = "\n".join(message.content for message in messages)
    if not text:
        raise InvalidRequest("messages have no text; a model without a chat template needs some.", param="messages")
    return model.tokenizer.encode(text, param="messages")


@dataclass(frozen=True)
class _Writer:
    """Writes one answer; its id, time and model are the same in all chunks."""

    model: Model
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": self._usage(answer.tokens)}

    async def chunks(self, deltas: AsyncIterator[Delta], include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        usage = {"usage": None} if include_usage else {}  # OpenAI: the field is in every chunk, and null in all but the last
        tokens, finish_reason = 0, None
        yield self._chunk({"role": "assistant", "content": ""}) | usage
        async for delta in deltas:
            tokens += delta.tokens
            finish_reason = delta.finish_reason
            if delta.text:
                yield self._chunk({"content": delta.text}) | usage
        yield self._chunk({}, finish_reason) | usage
        if include_usage:
            yield self._object("chat.completion.chunk", []) | {"usage": self._usage(tokens)}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        fingerprint = self.model.parameters.get("fingerprint")
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": f"fp_{fingerprint[:12]}" if fingerprint else None,
            "choices": choices,
        }

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }
