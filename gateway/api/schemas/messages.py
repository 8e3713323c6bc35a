"""Conversations, as /v1/chat/completions and /v1/responses write them."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.api.schemas.base import AnyString, Label, OpenAIBody, WrongPart

ROLES = '"system", "developer", "user" or "assistant"'
Role = Annotated[Literal["system", "developer", "user", "assistant"], Field(description=ROLES)]


def texts_of(*kinds: str, beside: frozenset[str] = frozenset()) -> BeforeValidator:
    """A list of text parts is their texts, a line each. ``beside``: what clients send with a text though it changes nothing."""

    def text_of(place: int, part: object) -> str:
        if not isinstance(part, dict):
            raise WrongPart(f"[{place}] is no object")
        if not isinstance(kind := part.get("type"), str) or kind not in kinds:
            raise WrongPart(f"[{place}].type is {_short(kind)}")
        if not isinstance(text := part.get("text"), str):
            raise WrongPart(f"[{place}].text is {_short(text)}")
        for name in part.keys() - {"type", "text"} - beside:
            raise WrongPart(f"[{place}] has {_short(name)}")
        return text

    def join(content: object) -> object:
        return "\n".join(text_of(place, part) for place, part in enumerate(content)) if isinstance(content, list) else content

    part: dict[str, Any] = {"type": {"enum": list(kinds)}, "text": {"type": "string"}} | {key: {} for key in sorted(beside)}
    parts = {"type": "object", "properties": part, "required": ["type", "text"], "additionalProperties": False}
    shape: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": parts}]}
    return BeforeValidator(join, json_schema_input_type=Annotated[Any, Field(json_schema_extra=shape)])


def _short(value: object) -> str:
    return json.dumps(value)[:40] if isinstance(value, str) else "missing" if value is None else "no string"


class Message(OpenAIBody):
    role: Role
    content: AnyString
    cache_control: Annotated[dict[str, Any], Field(description="an object")] = {}  # changes nothing, as on a part

    def for_template(self) -> dict[str, str]:
        """Templates know no "developer": it is OpenAI's newer word for "system"."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatMessage(Message):
    role: Role
    content: Annotated[
        str,
        texts_of("text", beside=frozenset({"annotations", "cache_control"})),
        Field(description='a string or a list of text parts, {"type": "text", "text": "..."}'),
    ]
    name: Label = ""  # changes nothing: no template of ours shows it
    tool_calls: Annotated[list[Any], Field(max_length=0, description="an empty list; tools are not supported here")] = []
    annotations: Annotated[list[Any], Field(max_length=0, description="an empty list")] = []
    reasoning_content: Annotated[str, Field(max_length=0, description="an empty string")] = ""


class InputMessage(Message):
    """A message of /v1/responses: what an earlier answer's item has beside its text changes nothing."""

    role: Role
    content: Annotated[
        str,
        texts_of("input_text", "output_text", beside=frozenset({"annotations", "logprobs", "cache_control"})),
        Field(description='a string or a list of text parts, {"type": "input_text", "text": "..."}'),
    ]
    type: Annotated[Literal["message"], Field(description='"message"')] = "message"
    id: Label = ""
    status: Annotated[
        Literal["in_progress", "completed", "incomplete"], Field(description='"in_progress", "completed" or "incomplete"')
    ] = "completed"
