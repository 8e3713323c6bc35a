"""Conversations, as /v1/chat/completions and /v1/responses write them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.schemas.base import AnyString, Label, OpenAIBody

ROLES = '"system", "developer", "user" or "assistant"'
Role = Annotated[Literal["system", "developer", "user", "assistant"], Field(description=ROLES)]


def _texts_of(*kinds: str, beside: frozenset[str] = frozenset()) -> BeforeValidator:
    """A list of text parts is their texts, a line each. ``beside``: what an earlier answer's part has beside its text."""

    def text_of(part: object) -> str:
        match part:
            case {"type": str(kind), "text": str(text), **others} if kind in kinds and others.keys() <= beside:
                return text
            case _:
                raise ValueError("not a text part")

    def join(content: object) -> object:
        return "\n".join(map(text_of, content)) if isinstance(content, list) else content

    part: dict[str, Any] = {"type": {"enum": list(kinds)}, "text": {"type": "string"}} | {key: {} for key in sorted(beside)}
    parts = {"type": "object", "properties": part, "required": ["type", "text"], "additionalProperties": False}
    shape: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": parts}]}
    return BeforeValidator(join, json_schema_input_type=Annotated[Any, Field(json_schema_extra=shape)])


class Message(OpenAIBody):
    role: Role
    content: AnyString

    def for_template(self) -> dict[str, str]:
        """Templates know no "developer": it is OpenAI's newer word for "system"."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatMessage(Message):
    role: Role
    content: Annotated[
        str,
        _texts_of("text"),
        Field(description='a string or a list of text parts, {"type": "text", "text": "..."}'),
    ]
    name: Label = ""  # changes nothing: no template of ours shows it


class InputMessage(Message):
    """A message of /v1/responses: what an earlier answer's item has beside its text changes nothing."""

    role: Role
    content: Annotated[
        str,
        _texts_of("input_text", "output_text", beside=frozenset({"annotations", "logprobs"})),
        Field(description='a string or a list of text parts, {"type": "input_text", "text": "..."}'),
    ]
    type: Annotated[Literal["message"], Field(description='"message"')] = "message"
    id: Label = ""
    status: Annotated[
        Literal["in_progress", "completed", "incomplete"], Field(description='"in_progress", "completed" or "incomplete"')
    ] = "completed"
