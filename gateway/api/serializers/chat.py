"""The form of /v1/chat/completions: whole, and as chunks."""

from gateway.api.response_models import ChatChoice, ChatCompletion, ChatDelta, ChatLogprobs
from gateway.api.schemas import ChatBody
from gateway.api.serializers.common import ChoiceSerializer, Event, TextEvents, envelope, logprob_objects, server_sent, usage_of
from gateway.engine.generation import Delta, FinishReason, GenerationRecord
from gateway.text.model import Model


class ChatSerializer(ChoiceSerializer):
    """In a stream every choice begins with its role and ends with an empty delta."""

    def __init__(self, body: ChatBody, model: Model, record: GenerationRecord) -> None:
        super().__init__(body, record, envelope("chatcmpl-", "chat.completion.chunk", model))
        self._text_events = TextEvents()

    def whole(self, answers: list[Delta]) -> ChatCompletion:
        choices = [self._choice(answer) for answer in answers]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": usage_of(self._record)}  # type: ignore[return-value]

    def begin(self) -> bytes:
        roles = (self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._body.copies))
        return b"".join(map(server_sent, roles))

    def events(self, delta: Delta) -> bytes:
        events = b""
        if delta.text and self._plain:
            events = self._text_events.write(delta, lambda text: self._chunk(delta.index, {"content": text}))
        elif delta.text or delta.logprobs:
            events = server_sent(self._chunk(delta.index, {"content": delta.text}, self._logprobs(delta)))
        if delta.finish_reason is not None:
            events += server_sent(self._chunk(delta.index, {}, None, delta.finish_reason))
        return events

    def _choice(self, answer: Delta) -> ChatChoice:
        assert answer.finish_reason is not None
        return {
            "index": answer.index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer),
            "finish_reason": answer.finish_reason,
        }

    def _logprobs(self, piece: Delta) -> ChatLogprobs | None:
        logprobs = self._body.alternatives is not None
        return {"content": logprob_objects(piece.logprobs), "refusal": None} if logprobs else None

    def _chunk(
        self, index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None, finish_reason: FinishReason | None = None
    ) -> Event:
        return self._event({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason})
