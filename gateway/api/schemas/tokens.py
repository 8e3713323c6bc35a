"""Request bodies of /tokenize and /detokenize."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from gateway.api.schemas.base import MOST_MESSAGES, Flag, OpenAIBody, OptionalModelName, OptionalString
from gateway.api.schemas.messages import ChatMessage
from gateway.errors import InvalidRequest

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True, description="a list of token ids")]


def _only(name: str, without: str) -> JsonDict:
    given: JsonDict = {"not": {"type": "null"}}
    return {"properties": {name: given, without: {"not": {"const": True}}}, "required": [name]}


class TokenizeBody(OpenAIBody):
    """``POST /tokenize``"""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_only("prompt", "add_generation_prompt"), _only("messages", "add_special_tokens")]}
    )

    model: OptionalModelName = None
    prompt: OptionalString = None
    messages: Annotated[
        Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)] | None,
        Field(description=f"a list of 1 to {MOST_MESSAGES} messages; instead of prompt"),
    ] = None
    add_special_tokens: Annotated[
        bool | None, Field(description="true or false; only with prompt, where true is the default")
    ] = None
    add_generation_prompt: Annotated[
        bool | None, Field(description="true or false; only with messages, where true is the default")
    ] = None
    return_token_strs: Flag = False

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.prompt is None and self.messages is None:
            raise InvalidRequest("prompt is missing; it must be a string, or there must be messages.", param="prompt")
        if self.prompt is not None and self.messages is not None:
            raise InvalidRequest("messages cannot go with prompt; send one of them.", param="messages")
        if self.messages is not None and self.add_special_tokens:
            message = "add_special_tokens is true; with messages it must be false: the chat template has them all."
            raise InvalidRequest(message, param="add_special_tokens")
        if self.prompt is not None and self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt is true; it is only allowed with messages.", param="add_generation_prompt"
            )
        return self


class DetokenizeBody(OpenAIBody):
    """``POST /detokenize``"""

    model: OptionalModelName = None
    tokens: TokenIds
