"""Response format of /generate: the prompt and its continuation; in a stream, only the continuation."""

from gateway.api.response_models import Generated, GeneratedPiece, GeneratedText
from gateway.api.schemas import GenerateBody
from gateway.api.serializers.common import Event, Serializer, TextEvents, server_sent, usage_of
from gateway.engine.generation import Delta, GenerationRecord


class GenerateSerializer(Serializer):
    """A stream's last event has no text, but the finish reason and the usage."""

    def __init__(self, body: GenerateBody, record: GenerationRecord) -> None:
        self._prompt, self._record = body.prompt, record
        self._text_events = TextEvents()

    def whole(self, answers: list[Delta]) -> Generated:
        data: GeneratedText = {"prompt": self._prompt, "generated_text": self._prompt + answers[0].text}
        return {"status": "success", "data": data}

    def events(self, delta: Delta) -> bytes:
        return self._text_events.write(delta, lambda text: _success({"text": text})) if delta.text else b""

    def end(self) -> bytes:
        (finish_reason,) = self._record.finish_reasons
        return (
            server_sent(_success({"text": "", "finish_reason": finish_reason, "usage": usage_of(self._record)})) + super().end()
        )


def _success(data: GeneratedPiece) -> Event:
    return {"status": "success", "data": data}
