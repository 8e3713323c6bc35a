"""The bodies of /v1/messages and /v1/messages/count_tokens, as Anthropic's clients write them."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gateway.api.schemas.base import (
    LONGEST_STOP,
    MOST_MESSAGES,
    Label,
    MaxTokens,
    ModelName,
    OpenAIBody,
    number,
)
from gateway.api.schemas.messages import texts_of
from gateway.api.schemas.sampling import SamplingBody
from gateway.text.grammar import Grammar

MOST_STOPS = 16
TEXT_BLOCKS = 'a string or a list of text blocks, {"type": "text", "text": "..."}'
_blocks = texts_of("text", beside=frozenset({"cache_control", "citations"}))
_Object = Annotated[dict[str, Any], Field(description="an object")]


class MessageParam(OpenAIBody):
    role: Annotated[Literal["user", "assistant"], Field(description='"user" or "assistant"; a system message goes in system')]
    content: Annotated[str, _blocks, Field(description=TEXT_BLOCKS)]


class Thinking(OpenAIBody):
    type: Annotated[Literal["disabled"], Field(description='"disabled": the models here do not think before they answer')]


class Metadata(OpenAIBody):
    user_id: Label = ""  # changes nothing


class CountTokensBody(OpenAIBody):
    """``POST /v1/messages/count_tokens``"""

    model: ModelName
    messages: Annotated[
        list[MessageParam],
        Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES, description=f"a list of 1 to {MOST_MESSAGES} messages"),
    ]
    system: Annotated[str, _blocks, Field(description=TEXT_BLOCKS)] = ""
    thinking: Annotated[Thinking | None, Field(description='an object, {"type": "disabled"}')] = None
    cache_control: _Object = {}  # changes nothing: what can be cached is

    def conversation(self) -> list[dict[str, Any]]:
        """As chat templates read it. Messages of one role in a row are one turn."""
        turns: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for message in self.messages:
            if turns and turns[-1]["role"] == message.role:
                turns[-1]["content"] += f"\n{message.content}"
            else:
                turns.append({"role": message.role, "content": message.content})
        return turns


class MessagesBody(CountTokensBody, SamplingBody):
    """``POST /v1/messages``"""

    prompt_field: ClassVar[str] = "messages"

    model: ModelName
    max_tokens: MaxTokens
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
        Field(
            alias="stop_sequences",
            fail_fast=True,
            max_length=MOST_STOPS,
            description=f"a list of up to {MOST_STOPS} strings, each of 1 to {LONGEST_STOP} characters",
        ),
    ] = []
    temperature: Annotated[float, number(0.0, 1.0, " (0: always the most probable token)")] = 0.7
    metadata: Annotated[Metadata, Field(description='an object, {"user_id": "..."}')] = Metadata()  # changes nothing
    service_tier: Annotated[Literal["auto", "standard_only"], Field(description='"auto" or "standard_only"')] = "auto"

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens

    def grammar(self) -> Grammar | None:
        return None
