"""The grammar of calls: tags as their form has them, and arguments by the tools' JSON schemas."""

import json
from dataclasses import asdict
from typing import Any

from gateway.text.tool_calls import ARGUMENTS, MOST_CALLS, NAME, CallForm, Tool, ToolUse

ANY_OBJECT: dict[str, Any] = {"type": "object"}
# Of a schema: what says nothing of the form, though it may be long.
ANNOTATIONS = {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"}
MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}  # of names to schemas
VALUES = {"const", "enum", "required", "dependentRequired"}
# With one of these a schema's properties may stand elsewhere in it.
COMBINING = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if"}


def grammar_text(use: ToolUse, form: CallForm, *, loose: frozenset[str] = frozenset()) -> str:
    """Of a `Grammar` of tools. ``loose``: the names of tools whose arguments may be any object."""
    schemas = {tool.name: ANY_OBJECT if tool.name in loose else arguments_schema(tool) for tool in use.called()}
    asked = {"form": asdict(form), "schemas": schemas, "parallel": use.parallel}
    return json.dumps(asked, ensure_ascii=False)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """What a tool's arguments must match: where its schema leaves open whether others may come than it names, none may."""
    schema: dict[str, Any] = {"type": "object"} | _without_annotations(tool.parameters)
    return schema if COMBINING & schema.keys() or "properties" not in schema else schema | {"additionalProperties": False}


def _without_annotations(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_annotations(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, part in schema.items():
        if name in MAPS and isinstance(part, dict):
            kept[name] = {key: _without_annotations(value) for key, value in part.items()}
        elif name not in ANNOTATIONS:
            kept[name] = part if name in VALUES else _without_annotations(part)
    return kept


class ToolGrammar:
    """What `grammar_text` has made, as llguidance and its trial want it."""

    def __init__(self, text: str) -> None:
        asked = json.loads(text)
        self.form = CallForm(**asked["form"])
        self.schemas: dict[str, dict[str, Any]] = asked["schemas"]
        self._several = asked["parallel"] and self.form.between is not None

    def heads(self) -> list[str]:
        """What stands before the arguments of a first call, of each tool."""
        return [(self.form.opening + self.form.head).replace(NAME, name) for name in self.schemas]

    def lark(self, json_rules: dict[str, Any]) -> str:
        """``json_rules``: llguidance's own, for the arguments."""
        form = self.form
        tag = f"({_literal(form.tag)})? " if form.tag and form.tag not in form.opening else ""
        more = f" ({_written(form.between or '')} call){{0,{MOST_CALLS - 1}}}" if self._several else ""
        lines = [f"start: {tag}{_written(form.opening)} call{more} {_written(form.closing)}", 'SP: " "', 'NL: "\\n"']
        lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(self.schemas))))
        for index, (name, schema) in enumerate(self.schemas.items()):
            head, tail = form.call.replace(NAME, name).split(ARGUMENTS)
            lines.append(f"call_{index}: {_written(head)} arguments_{index} {_written(tail)}")
            lines.append(f"arguments_{index}: %json {json.dumps(schema | {'x-guidance': json_rules})}")
        return "\n".join(lines)


def _written(pattern: str) -> str:
    """A part of a form in Lark: its whitespace may be left out."""
    words, literal = list[str](), ""
    for character in pattern + "\0":
        if character not in " \n\0":
            literal += character
            continue
        words += [_literal(literal)] if literal else []
        words += {" ": ["SP?"], "\n": ["NL?"], "\0": []}[character]
        literal = ""
    return " ".join(words)


def _literal(text: str) -> str:
    return json.dumps(text)
