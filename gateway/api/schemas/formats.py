"""``response_format``: the required format of an output, and the grammar that enforces it."""

import json
import re
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic_core import to_json

from gateway.api.schemas.base import AnyObject, Flag, Label, OpenAIBody
from gateway.errors import InvalidRequest
from gateway.text.grammar import LONGEST_GRAMMAR, LONGEST_SCHEMA, Grammar

NAME = Field(pattern="^[a-zA-Z0-9_-]{1,64}$", description="a string of 1 to 64 letters, digits, underscores and dashes")
GrammarText = Annotated[
    str | None,
    Field(min_length=1, max_length=LONGEST_GRAMMAR, description=f"a string of 1 to {LONGEST_GRAMMAR} characters"),
]
SCHEMA = Field(alias="schema", description=f"a JSON schema, an object of at most {LONGEST_SCHEMA} characters")
FORMS = '"text", "json_object", "json_schema", "regex" or "grammar"'


class NamedSchema(OpenAIBody):
    name: Annotated[str, NAME]
    schema_: Annotated[AnyObject, SCHEMA]
    description: Label = ""
    strict: Flag = True  # outputs always follow the schema


class _Format(OpenAIBody):
    """Fields common to both of OpenAI's forms. ``regex`` and ``grammar`` are Tidegate's additions."""

    type: Annotated[Literal["text", "json_object", "json_schema", "regex", "grammar"], Field(description=FORMS)] = "text"
    regex: GrammarText = None
    grammar: GrammarText = None

    def compiled_from(self, path: str) -> Grammar | None:
        """Returns the grammar for the output; None: no constraint. Raises InvalidRequest for a field under ``path``."""
        self._require_only_its_own(path)
        match self.type:
            case "text":
                return None
            case "json_object":
                return Grammar("json_object", "")
            case "json_schema":
                return Grammar("json_schema", self._schema_text(path))
            case "regex":
                return Grammar("regex", self.regex or "")
            case "grammar":
                return Grammar("lark", self.grammar or "")

    @abstractmethod
    def _schema(self) -> tuple[str, dict[str, Any]]:
        """Returns the schema's path under the format, and the schema."""

    def _given(self) -> set[str]:
        return {name for name in ("regex", "grammar") if getattr(self, name) is not None}

    def _needs(self) -> set[str]:
        return {"regex", "grammar"}.intersection({self.type})

    def _require_only_its_own(self, path: str) -> None:
        given, needed = self._given(), self._needs()
        for name in sorted(needed - given):
            raise InvalidRequest(f'{path}.{name} is missing; {path}.type "{self.type}" needs it.', param=f"{path}.{name}")
        for name in sorted(given - needed):
            message = f'{path}.{name} cannot go with {path}.type "{self.type}"; leave it out, or ask for its own type.'
            raise InvalidRequest(message, param=f"{path}.{name}")

    def _schema_text(self, path: str) -> str:
        name, schema = self._schema()
        characters = len(to_json(schema).decode())  # ten times as fast as json.dumps, to reject long schemas
        text = json.dumps(schema, ensure_ascii=False) if characters <= LONGEST_SCHEMA else ""
        if (characters := max(characters, len(text))) > LONGEST_SCHEMA:
            message = f"{path}.{name} has {characters} characters; at most {LONGEST_SCHEMA} are accepted."
            raise InvalidRequest(message, param=f"{path}.{name}")
        longest = max(map(len, re.findall(r'"(?:[^"\\]|\\.)*"', text)), default=0)
        if longest > LONGEST_GRAMMAR:
            message = f"{path}.{name} has a string of {longest} characters; at most {LONGEST_GRAMMAR} are accepted."
            raise InvalidRequest(message, param=f"{path}.{name}")
        return text


def _one_of(**fields: tuple[str, ...]) -> ConfigDict:
    """Describes in the OpenAPI document which fields go with which type."""
    others = {name for needed in fields.values() for name in needed}
    choices: list[Any] = []
    for kind, needed in fields.items():
        absent: dict[str, Any] = {name: {"type": "null"} for name in sorted(others - set(needed))}
        present: dict[str, Any] = {name: {"not": {"type": "null"}} for name in needed}
        choices.append({"properties": {"type": {"const": kind}} | absent | present, "required": ["type", *needed]})
    without_type: dict[str, Any] = {"type": {"type": "null"}} | {name: {"type": "null"} for name in sorted(others)}
    return ConfigDict(json_schema_extra={"oneOf": [*choices, {"properties": without_type}]})


class ResponseFormat(_Format):
    """The form of chat completions: the schema is in an object of its own."""

    model_config = _one_of(text=(), json_object=(), json_schema=("json_schema",), regex=("regex",), grammar=("grammar",))
    json_schema: Annotated[NamedSchema | None, Field(description='an object, {"name": "...", "schema": {...}}')] = None

    def _given(self) -> set[str]:
        return super()._given() | ({"json_schema"} if self.json_schema else set())

    def _needs(self) -> set[str]:
        return super()._needs() | {"json_schema"}.intersection({self.type})

    def _schema(self) -> tuple[str, dict[str, Any]]:
        assert self.json_schema is not None
        return "json_schema.schema", self.json_schema.schema_


class TextFormat(_Format):
    """The form of /v1/responses: the schema's fields are next to the type."""

    model_config = _one_of(text=(), json_object=(), json_schema=("name", "schema"), regex=("regex",), grammar=("grammar",))
    name: Annotated[str | None, NAME] = None
    schema_: Annotated[AnyObject | None, SCHEMA] = None
    description: Label = ""
    strict: Flag = True

    def _given(self) -> set[str]:
        of_schema = {"name": self.name, "schema": self.schema_}
        return super()._given() | {name for name, value in of_schema.items() if value is not None}

    def _needs(self) -> set[str]:
        return super()._needs() | ({"name", "schema"} if self.type == "json_schema" else set())

    def _schema(self) -> tuple[str, dict[str, Any]]:
        assert self.schema_ is not None
        return "schema", self.schema_

    def echoed(self) -> dict[str, Any]:
        """Returns the format as a response repeats it."""
        return {"type": self.type} | self.model_dump(by_alias=True, exclude_unset=True)
