"""Content blocks of Anthropic's messages, and their conversion to the conversation that chat templates read."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from gateway.api.schemas.base import AnyObject, Flag, OpenAIBody, WrongPart
from gateway.api.schemas.history import Conversation
from gateway.api.schemas.messages import CallId, shortened, texts_of
from gateway.api.schemas.tools import NAME
from gateway.errors import InvalidRequest

if TYPE_CHECKING:
    from gateway.api.schemas.anthropic import MessageParam

# For each type: required fields, optional fields.
FIELDS = {
    "text": (("text",), ("citations",)),
    "tool_use": (("id", "name", "input"), ()),
    "tool_result": (("tool_use_id",), ("content", "is_error")),
}
ROLES = {"tool_use": "assistant", "tool_result": "user"}


class ContentBlock(OpenAIBody):
    type: Annotated[Literal["text", "tool_use", "tool_result"], Field(description='"text", "tool_use" or "tool_result"')]
    text: Annotated[str | None, Field(description="a string")] = None
    citations: Annotated[list[Any], Field(max_length=0, description="an empty list")] = []
    id: CallId = None
    name: Annotated[str | None, NAME] = None
    input: Annotated[AnyObject | None, Field(description="an object, the tool's arguments")] = None
    tool_use_id: CallId = None
    content: Annotated[
        str | None,
        texts_of("text", beside=frozenset({"cache_control", "citations"})),
        Field(description='a string or a list of text blocks, {"type": "text", "text": "..."}'),
    ] = None
    is_error: Flag = False  # changes nothing: the content says so
    cache_control: Annotated[dict[str, Any], Field(description="an object")] = {}  # changes nothing

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, block: object) -> object:
        """Checks the type before the fields: other types, such as images, have other fields."""
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or kind not in FIELDS:
            raise WrongPart(f".type is {shortened(kind)}")
        return block


def anthropic_conversation(system: str, messages: Sequence["MessageParam"]) -> list[dict[str, Any]]:
    """Converts messages to a conversation, merging consecutive texts of one role. Raises InvalidRequest."""
    conversation = Conversation()
    if system:
        conversation.add("system", system)
    for index, message in enumerate(messages):
        if not message.content:
            raise InvalidRequest(f"messages[{index}].content has no block.", param=f"messages[{index}].content")
        for number, block in enumerate(message.content):
            path = f"messages[{index}].content[{number}]"
            _require_its_own(path, message.role, block)
            if block.type == "text":
                conversation.add_text(message.role, block.text or "")
            elif block.type == "tool_use":
                conversation.add_call(block.id or "", block.name or "", block.input or {})
            else:
                conversation.add_result(f"{path}.tool_use_id", block.tool_use_id or "", block.content or "")
    return conversation.messages


def _require_its_own(path: str, role: str, block: ContentBlock) -> None:
    needed, possible = FIELDS[block.type]
    for name in needed:
        if getattr(block, name) is None:
            raise InvalidRequest(f'{path}.{name} is missing; type "{block.type}" needs it.', param=f"{path}.{name}")
    for name in sorted(block.model_fields_set - {"type", "cache_control", *needed, *possible}):
        raise InvalidRequest(f'{path}.{name} cannot go with type "{block.type}".', param=f"{path}.{name}")
    if role != ROLES.get(block.type, role):
        message = f'{path}.type is "{block.type}"; it is only allowed with role "{ROLES[block.type]}".'
        raise InvalidRequest(message, param=f"{path}.type")
