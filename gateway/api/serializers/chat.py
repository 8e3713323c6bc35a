"""The form of /v1/chat/completions: whole, and as chunks."""

from gateway.api.response_models import ChatChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChunkChoice
from gateway.api.schemas import ChatBody
from gateway.api.serializers.common import (
    ChoiceSerializer,
    Event,
    TextEvents,
    envelope,
    logprob_objects,
    prompt_logprob_objects,
    server_sent,
    usage_of,
)
from gateway.engine.generation import Delta, FinishReason, GenerationRecord
from gateway.text.model import Model


class ChatSerializer(ChoiceSerializer):
    """In a stream every choice begins with its role and ends with an empty delta. ``prompt``: the conversation's tokens."""

    def __init__(self, body: ChatBody, model: Model, record: GenerationRecord, prompt: list[int]) -> None:
        super().__init__(body, record, envelope("chatcmpl-", "chat.completion.chunk", model))
        self._prompt = prompt
        self._text_events = TextEvents()

    def whole(self, answers: list[Delta]) -> ChatCompletion:
        choices = [self._choice(answer) for answer in answers]
        whole = self._head | {"object": "chat.completion", "choices": choices, "usage": usage_of(self._record)}
        if (alternatives := self._body.prompt_logprobs) is not None:
            whole["prompt_logprobs"] = prompt_logprob_objects(answers[0].prompt_logprobs, alternatives)
        return whole | self._prompt_token_ids()  # type: ignore[return-value]

    def begin(self) -> bytes:
        first, *others = [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._body.copies)]
        return b"".join(map(server_sent, [first | self._prompt_token_ids(), *others]))

    def events(self, delta: Delta) -> bytes:
        events = b""
        if delta.text and self._plain:
            events = self._text_events.write(delta, lambda text: self._chunk(delta.index, {"content": text}))
        elif delta.text or delta.logprobs or delta.token_ids:
            events = server_sent(
                self._chunk(delta.index, {"content": delta.text}, self._logprobs(delta), token_ids=delta.token_ids)
            )
        if delta.finish_reason is not None:
            events += server_sent(self._chunk(delta.index, {}, None, delta.finish_reason))
        return events

    def _choice(self, answer: Delta) -> ChatChoice:
        assert answer.finish_reason is not None
        choice: ChatChoice = {
            "index": answer.index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer),
            "finish_reason": answer.finish_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
        return choice

    def _prompt_token_ids(self) -> Event:
        return {"prompt_token_ids": self._prompt} if self._body.return_token_ids else {}

    def _logprobs(self, piece: Delta) -> ChatLogprobs | None:
        logprobs = self._body.alternatives is not None
        return {"content": logprob_objects(piece.logprobs), "refusal": None} if logprobs else None

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        logprobs: ChatLogprobs | None = None,
        finish_reason: FinishReason | None = None,
        token_ids: tuple[int, ...] = (),
    ) -> Event:
        choice: ChunkChoice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        if token_ids:
            choice["token_ids"] = list(token_ids)
        return self._event(choice)
