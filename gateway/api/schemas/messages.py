"""Messages and items of conversations, in the forms of /v1/chat/completions and /v1/responses."""

# ruff: noqa: RUF012  pydantic copies a mutable default for every body

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.api.schemas.base import AnyObject, AnyString, Label, OpenAIBody, WrongPart
from gateway.api.schemas.tools import NAME, FunctionName

MOST_TOOL_CALLS = 128  # per message
LONGEST_ID = 256


def texts_of(*kinds: str, beside: frozenset[str] = frozenset()) -> BeforeValidator:
    """Joins a list of text parts, one per line. ``beside``: other fields of a part that are accepted and ignored."""

    def text_of(place: int, part: object) -> str:
        if not isinstance(part, dict):
            raise WrongPart(f"[{place}] is no object")
        if not isinstance(kind := part.get("type"), str) or kind not in kinds:
            raise WrongPart(f"[{place}].type is {shortened(kind)}")
        if not isinstance(text := part.get("text"), str):
            raise WrongPart(f"[{place}].text is {shortened(text)}")
        for name in part.keys() - {"type", "text"} - beside:
            raise WrongPart(f"[{place}] has {shortened(name)}")
        return text

    def join(content: object) -> object:
        return "\n".join(text_of(place, part) for place, part in enumerate(content)) if isinstance(content, list) else content

    part: dict[str, Any] = {"type": {"enum": list(kinds)}, "text": {"type": "string"}} | {key: {} for key in sorted(beside)}
    parts = {"type": "object", "properties": part, "required": ["type", "text"], "additionalProperties": False}
    shape: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": parts}]}
    return BeforeValidator(join, json_schema_input_type=Annotated[Any, Field(json_schema_extra=shape)])


def shortened(value: object) -> str:
    return json.dumps(value)[:40] if isinstance(value, str) else "missing" if value is None else "no string"


CallId = Annotated[
    str | None, Field(min_length=1, max_length=LONGEST_ID, description=f"a string of 1 to {LONGEST_ID} characters")
]


MOST_VARIABLES = 16  # of chat_template_kwargs
# What the request itself passes to a template, and the one name that Jinja keeps for itself.
RESERVED_VARIABLES = ("messages", "tools", "add_generation_prompt", "self")


def _without_reserved(variables: dict[str, Any]) -> dict[str, Any]:
    for name in RESERVED_VARIABLES:
        if name in variables:
            raise WrongPart(f" has {shortened(name)}")
    return variables


TemplateVariables = Annotated[
    AnyObject,
    AfterValidator(_without_reserved),
    Field(
        max_length=MOST_VARIABLES,
        description=f'an object of up to {MOST_VARIABLES} variables of the chat template, such as {{"enable_thinking": false}}',
        json_schema_extra={
            "maxProperties": MOST_VARIABLES,
            "propertyNames": {"not": {"enum": list(RESERVED_VARIABLES)}},
        },
    ),
]


class CalledFunctionParam(OpenAIBody):
    name: FunctionName
    arguments: AnyString


class ToolCallParam(OpenAIBody):
    id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID, description=f"a string of 1 to {LONGEST_ID} characters")]
    type: Annotated[Literal["function"], Field(description='"function"')] = "function"
    function: Annotated[CalledFunctionParam, Field(description='an object, {"name": "...", "arguments": "{...}"}')]


class ChatMessage(OpenAIBody):
    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Field(description='"system", "developer", "user", "assistant" or "tool"'),
    ]
    content: Annotated[
        str | None,
        texts_of("text", beside=frozenset({"annotations", "cache_control"})),
        Field(description='a string or a list of text parts, {"type": "text", "text": "..."}'),
    ] = None
    name: Label = ""  # no effect: it is not passed to templates
    tool_calls: Annotated[
        list[ToolCallParam],
        Field(fail_fast=True, max_length=MOST_TOOL_CALLS, description=f"a list of up to {MOST_TOOL_CALLS} calls"),
    ] = []
    tool_call_id: CallId = None
    annotations: Annotated[list[Any], Field(max_length=0, description="an empty list")] = []
    reasoning_content: Annotated[str, Field(max_length=0, description="an empty string")] = ""
    cache_control: Annotated[dict[str, Any], Field(description="an object")] = {}  # changes nothing, as on a part


_TEXT_KINDS = ("input_text", "output_text")
_BESIDE = frozenset({"annotations", "logprobs", "cache_control"})
_TEXTS = 'a string or a list of text parts, {"type": "input_text", "text": "..."}'


class InputItem(OpenAIBody):
    """An item of /v1/responses: a message, a call or its output. Other fields that responses have are accepted and ignored."""

    type: Annotated[
        Literal["message", "function_call", "function_call_output"],
        Field(description='"message", "function_call" or "function_call_output"'),
    ] = "message"
    role: Annotated[
        Literal["system", "developer", "user", "assistant"] | None,
        Field(description='"system", "developer", "user" or "assistant"'),
    ] = None
    content: Annotated[str | None, texts_of(*_TEXT_KINDS, beside=_BESIDE), Field(description=_TEXTS)] = None
    call_id: CallId = None
    name: Annotated[str | None, NAME] = None
    arguments: Annotated[str | None, Field(description="a string")] = None
    output: Annotated[str | None, texts_of(*_TEXT_KINDS, beside=_BESIDE), Field(description=_TEXTS)] = None
    id: Label = ""
    status: Annotated[
        Literal["in_progress", "completed", "incomplete"], Field(description='"in_progress", "completed" or "incomplete"')
    ] = "completed"
    cache_control: Annotated[dict[str, Any], Field(description="an object")] = {}  # changes nothing, as on a part
