"""The form of /v1/chat/completions: whole, and as chunks."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gateway.api.response_models import ChatChoice, ChatCompletion, ChatDelta, ChatLogprobs
from gateway.api.schemas import ChatBody
from gateway.api.serializers.common import Identity, Tally, logprob_objects, usage_in_pieces
from gateway.engine.generation import Delta, FinishReason
from gateway.text.model import Model


class ChatSerializer:
    def __init__(self, body: ChatBody, model: Model, prompts: list[list[int]]) -> None:
        self._body = body
        self._identity = Identity.new("chatcmpl-", model)
        self._tally = Tally(prompts, body.copies)

    def whole(self, answers: list[Delta]) -> ChatCompletion:
        for answer in answers:
            self._tally.note(answer)
        choices = [self._choice(answer) for answer in answers]
        return self._identity.envelope("chat.completion") | {"choices": choices, "usage": self._tally.usage()}  # type: ignore[return-value]

    async def events(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[dict[str, Any], None]:
        """Every choice begins with its role and ends with an empty delta; between them the choices come as they are written."""
        options = self._body.stream_options
        head = self._identity.envelope("chat.completion.chunk")
        for index in range(self._body.copies):
            end = usage_in_pieces(options, self._tally)
            yield head | {"choices": [_chunk(index, {"role": "assistant", "content": ""})]} | end
        async for delta in deltas:
            self._tally.note(delta)
            end = usage_in_pieces(options, self._tally)
            if delta.text or delta.logprobs:
                yield head | {"choices": [_chunk(delta.index, {"content": delta.text}, self._logprobs(delta))]} | end
            if delta.finish_reason is not None:
                yield head | {"choices": [_chunk(delta.index, {}, None, delta.finish_reason)]} | end
        if options.include_usage:
            yield head | {"choices": [], "usage": self._tally.usage()}

    def _choice(self, answer: Delta) -> ChatChoice:
        assert answer.finish_reason is not None
        return {
            "index": answer.index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer),
            "finish_reason": answer.finish_reason,
        }

    def _logprobs(self, piece: Delta) -> ChatLogprobs | None:
        return {"content": logprob_objects(piece.logprobs), "refusal": None} if self._body.logprobs else None


def _chunk(
    index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None, finish_reason: FinishReason | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
