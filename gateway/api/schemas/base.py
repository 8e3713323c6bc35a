"""Building blocks of request bodies. Every field describes in one phrase what is allowed; error messages include that phrase.

Types are strict (neither "5" nor true is an integer), and unknown fields are rejected by name. Lists and objects have size
limits and are checked only up to the first error (fail_fast), so a megabyte of errors is rejected as quickly as one.
"""

from functools import cache
from math import isfinite
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gateway.errors import echo

LARGEST_TOP_K = 1_000_000  # beyond any vocabulary
LARGEST_MAX_TOKENS = 1_000_000  # beyond any context: generation stops at the end of the context anyway
MOST_CHOICES = 128  # outputs per request
MOST_BIASES = 300  # as in OpenAI's API
MOST_MESSAGES = 2048  # per conversation, as in OpenAI's API
LONGEST_LABEL = 4096  # characters of a string that only names something
LONGEST_STOP = 1024  # characters of a stop string
LONGEST_PATH = 200  # characters of a path inside a client's own object
UNKNOWN_FIELD = "unknown_field"  # validation error type; the error's context names the field

# Unknown fields that clients often send, and what to use instead.
NOT_SUPPORTED = {
    "audio": "the models here write text only",
    "background": "an answer comes on the connection that asked for it",
    "conversation": "nothing is stored here; send the earlier messages in input",
    "functions": "use tools, which took its place at OpenAI",
    "function_call": "use tool_choice, which took its place at OpenAI",
    "guided_grammar": 'use response_format, {"type": "grammar", "grammar": "..."}',
    "guided_json": 'use response_format, {"type": "json_schema", "json_schema": {...}}',
    "guided_regex": 'use response_format, {"type": "regex", "regex": "..."}',
    "previous_response_id": "nothing is stored here; send the earlier messages in input",
    "reasoning": "the models here do not reason before they answer",
    "reasoning_effort": "the models here do not reason before they answer",
    "suffix": "the models here continue a text; they cannot fill a gap",
}


def integer(lowest: int, highest: int, note: str = "") -> FieldInfo:
    field: FieldInfo = Field(ge=lowest, le=highest, description=f"an integer from {lowest} to {highest}{note}")
    return field


def number(lowest: float, highest: float, note: str = "") -> FieldInfo:
    field: FieldInfo = Field(ge=lowest, le=highest, description=f"a number from {lowest} to {highest}{note}")
    return field


MaxTokens = Annotated[int, integer(1, LARGEST_MAX_TOKENS)]
OptionalMaxTokens = Annotated[int | None, integer(1, LARGEST_MAX_TOKENS)]
Choices = Annotated[int, integer(1, MOST_CHOICES)]
Flag = Annotated[bool, Field(description="true or false")]
AnyString = Annotated[str, Field(description="a string")]
OptionalString = Annotated[str | None, Field(description="a string")]
Label = Annotated[str, Field(max_length=LONGEST_LABEL, description=f"a string of up to {LONGEST_LABEL} characters")]
FilledString = Annotated[str, Field(min_length=1, description="a string that is not empty")]
ModelName = Annotated[str, Field(description="the name of a model in GET /v1/models")]
OptionalModelName = Annotated[
    str | None, Field(description="the name of a model in GET /v1/models; without it the default model")
]
_StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
StopStrings = Annotated[
    list[_StopString],
    Field(fail_fast=True, max_length=4),
    BeforeValidator(
        lambda stop: [stop] if isinstance(stop, str) else stop,
        json_schema_input_type=_StopString | Annotated[list[_StopString], Field(max_length=4)],
    ),
    Field(description=f"a string, or a list of up to 4 strings, each of 1 to {LONGEST_STOP} characters"),
]


class WrongPart(ValueError):
    """A value inside a field is invalid. The message is appended to the field's path."""


def require_finite(value: object, path: str = "") -> object:
    """JSON has no infinity, but 1e999 is read as one, and Python's parser reads NaN."""
    if isinstance(value, float) and not isfinite(value):
        raise WrongPart(f"{path} is {echo(value)}")
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        require_finite(part, f"{path}[{name}]" if isinstance(value, list) else f"{path}.{name}"[:LONGEST_PATH])
    return value


# An object of the client's own, whose numbers are written again: in the prompt, a grammar or the answer.
AnyObject = Annotated[dict[str, Any], AfterValidator(require_finite)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_field(cls, fields: object) -> object:
        _require_known(cls, fields)
        return fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Lists the fields in the order of `fields_of`."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"] = {name: schema["properties"][name] for name in fields_of(cls)}
        return schema


class OpenAIBody(Body):
    """The SDKs send null for what is not set, and an earlier answer has nulls in it: null means the default everywhere."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_field(cls, fields: object) -> object:
        if isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if value is not None}
        _require_known(cls, fields)
        return fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        required = schema.get("required", [])
        schema["properties"] = {
            name: field if name in required else _or_null(field) for name, field in schema["properties"].items()
        }
        return schema


def fields_of(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """Returns fields by the names that clients use: a schema's own fields first, in source order, then inherited ones."""
    fields = schema.model_fields
    names = [name for base in schema.__mro__ for name in vars(base).get("__annotations__", ()) if name in fields]
    return {fields[name].alias or name: fields[name] for name in dict.fromkeys(names)}


def _require_known(schema: type[BaseModel], fields: object) -> None:
    """Raises PydanticCustomError for the first unknown field. Pydantic itself would build an error for each one."""
    if isinstance(fields, dict) and (unknown := fields.keys() - _names_of(schema)):
        raise PydanticCustomError(UNKNOWN_FIELD, "unknown field", {"name": next(name for name in fields if name in unknown)})


@cache
def _names_of(schema: type[BaseModel]) -> frozenset[str]:
    return frozenset(fields_of(schema))


def nested_schema(annotation: object) -> type[BaseModel] | None:
    """Returns the first schema inside ``annotation``, if any: for ``list[ChatMessage]``, ChatMessage."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := nested_schema(argument))), None)


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    outside: dict[str, Any] = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
    choices = field["anyOf"] if set(field) == {"anyOf"} else [field]
    return {"anyOf": choices if {"type": "null"} in choices else [*choices, {"type": "null"}], **outside}
