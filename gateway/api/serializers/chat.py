"""Response format of /v1/chat/completions: whole, and as chunks."""

from dataclasses import replace

from gateway.api.response_models import (
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
    ChunkChoice,
    FunctionDelta,
)
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
from gateway.text.tool_reader import CallArguments, CallBegun, ToolReader, read_all


class ChatSerializer(ChoiceSerializer):
    """In a stream, each choice starts with its role and ends with an empty delta. ``prompt``: the conversation's tokens."""

    _body: ChatBody

    def __init__(self, body: ChatBody, model: Model, record: GenerationRecord, prompt: list[int]) -> None:
        super().__init__(body, record, envelope("chatcmpl-", "chat.completion.chunk", model))
        self._prompt = prompt
        self._text_events = TextEvents()
        use = body.tool_use
        self._readers: list[ToolReader] = [] if use is None else [model.tools.reader(use) for _ in range(body.copies)]

    def whole(self, answers: list[Delta]) -> ChatCompletion:
        choices = [self._choice(answer) for answer in answers]
        whole = self._head | {"object": "chat.completion", "choices": choices, "usage": usage_of(self._record)}
        if (alternatives := self._body.prompt_logprobs) is not None:
            whole["prompt_logprobs"] = prompt_logprob_objects(answers[0].prompt_logprobs, alternatives)
        return whole | self._prompt_token_ids()  # type: ignore[return-value]

    def begin(self) -> bytes:
        role: ChatDelta = {
            "role": "assistant",
            "content": None if self._readers else "",
        }  # stays null if there are only calls
        first, *others = [self._chunk(index, role) for index in range(self._body.copies)]
        return b"".join(map(server_sent, [first | self._prompt_token_ids(), *others]))

    def events(self, delta: Delta) -> bytes:
        events = self._events_of_calls(delta) if self._readers else self._events_of_text(delta)
        if delta.finish_reason is not None:
            events += server_sent(self._chunk(delta.index, {}, None, self._finish_reason(delta.index, delta.finish_reason)))
        return events

    def _events_of_text(self, delta: Delta) -> bytes:
        if delta.text and self._plain:
            return self._text_events.write(delta, lambda text: self._chunk(delta.index, {"content": text}))
        if delta.text or delta.logprobs or delta.token_ids:
            chunk = self._chunk(delta.index, {"content": delta.text}, self._logprobs(delta), token_ids=delta.token_ids)
            return server_sent(chunk)
        return b""

    def _events_of_calls(self, delta: Delta) -> bytes:
        """Returns the events of calls and of the text around them. The first event has all token ids of the piece."""
        reader = self._readers[delta.index]
        pieces = reader.feed(delta.text) + (reader.finish() if delta.finish_reason is not None else [])
        events, ids = b"", delta.token_ids
        for piece in pieces or [""]:
            if isinstance(piece, str):
                events += self._events_of_text(replace(delta, text=piece, token_ids=ids))
            else:
                events += server_sent(self._chunk(delta.index, _delta_of(piece), token_ids=ids))
            ids = ()
        return events

    def _choice(self, answer: Delta) -> ChatChoice:
        assert answer.finish_reason is not None
        message = self._message(answer)
        choice: ChatChoice = {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(answer),
            "finish_reason": self._finish_reason(answer.index, answer.finish_reason),
        }
        if self._body.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
        return choice

    def _message(self, answer: Delta) -> ChatAnswer:
        text, calls = read_all(self._readers[answer.index], answer.text) if self._readers else (answer.text, [])
        message: ChatAnswer = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return message

    def _prompt_token_ids(self) -> Event:
        return {"prompt_token_ids": self._prompt} if self._body.return_token_ids else {}

    def _finish_reason(self, index: int, reason: FinishReason) -> ChatFinishReason:
        return "tool_calls" if self._readers and self._readers[index].whole else reason

    def _logprobs(self, piece: Delta) -> ChatLogprobs | None:
        logprobs = self._body.alternatives is not None
        return {"content": logprob_objects(piece.logprobs), "refusal": None} if logprobs else None

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        logprobs: ChatLogprobs | None = None,
        finish_reason: ChatFinishReason | None = None,
        token_ids: tuple[int, ...] = (),
    ) -> Event:
        choice: ChunkChoice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        if token_ids:
            choice["token_ids"] = list(token_ids)
        return self._event(choice)


def _delta_of(piece: CallBegun | CallArguments) -> ChatDelta:
    if isinstance(piece, CallArguments):
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    function: FunctionDelta = {"name": piece.name, "arguments": ""}
    return {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}
