"""The form of /generate: the text with its prompt; in a stream the text after it."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gateway.api.response_models import Generated, GeneratedText
from gateway.api.schemas import GenerateBody
from gateway.api.serializers.common import Tally
from gateway.engine.generation import Delta


class GenerateSerializer:
    def __init__(self, body: GenerateBody, prompts: list[list[int]]) -> None:
        self._prompt = body.prompt
        self._tally = Tally(prompts, copies=1)

    def whole(self, answers: list[Delta]) -> Generated:
        data: GeneratedText = {"prompt": self._prompt, "generated_text": self._prompt + answers[0].text}
        return {"status": "success", "data": data}

    async def events(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[dict[str, Any], None]:
        """The text after the prompt, piece by piece; the last event has none, but why it ended and what it took."""
        finish_reason = None
        async for delta in deltas:
            self._tally.note(delta)
            finish_reason = delta.finish_reason
            if delta.text:
                yield {"status": "success", "data": {"text": delta.text}}
        ended = {"text": "", "finish_reason": finish_reason, "usage": self._tally.usage()}
        yield {"status": "success", "data": ended}
