"""The grammar of calls: tags according to their form, and arguments according to the tools' JSON schemas."""

import json
from dataclasses import asdict
from typing import Any

from gateway.text.tool_calls import MOST_CALLS, NAME, CallForm, Tool, ToolUse

ANY_OBJECT: dict[str, Any] = {"type": "object"}
# Schema keywords that do not constrain values, though they may be long.
ANNOTATIONS = {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"}
MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}  # map names to schemas
VALUES = {"const", "enum", "required", "dependentRequired"}
# With one of these keywords, a schema's properties may be defined elsewhere in it.
COMBINING = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if"}


def grammar_text(use: ToolUse, form: CallForm, *, loose: frozenset[str] = frozenset()) -> str:
    """Returns the text of a `Grammar` of tools. ``loose``: the names of tools whose arguments may be any object."""
    schemas = {tool.name: ANY_OBJECT if tool.name in loose else arguments_schema(tool) for tool in use.called()}
    asked = {"form": asdict(form), "schemas": schemas, "parallel": use.parallel}
    return json.dumps(asked, ensure_ascii=False)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """Returns the schema that a tool's arguments must match. If the tool's schema lists properties without saying whether
    others are allowed, they are not."""
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
    """Converts the result of `grammar_text` for llguidance and the trial."""

    def __init__(self, text: str) -> None:
        asked = json.loads(text)
        self.form = CallForm(**asked["form"])
        self.schemas: dict[str, dict[str, Any]] = asked["schemas"]
        self._several = asked["parallel"] and self.form.between is not None

    def heads(self) -> list[str]:
        """Returns, for each tool, the text before the arguments of a first call."""
        return [(self.form.opening + self.form.head).replace(NAME, name) for name in self.schemas]

    def lark(self, json_rules: dict[str, Any]) -> str:
        """Returns the grammar in Lark. ``json_rules``: llguidance's options for the arguments."""
        form = self.form
        tag = f"({_literal(form.tag)})? " if form.tag and form.tag not in form.opening else ""
        more = f" ({_written(form.between or '')} call){{0,{MOST_CALLS - 1}}}" if self._several else ""
        lines = [f"start: {tag}{_written(form.opening)} call{more} {_written(form.closing)}", 'SP: " "', 'NL: "\\n"']
        lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(self.schemas))))
        for index, (name, schema) in enumerate(self.schemas.items()):
            head = _written(form.head.replace(NAME, name))
            lines.append(f"call_{index}: {head} arguments_{index} {_written(form.tail)}")
            lines.append(f"arguments_{index}: %json {json.dumps(schema | {'x-guidance': json_rules})}")
        return "\n".join(lines)


def _written(pattern: str) -> str:
    """Returns a part of a form in Lark, with optional whitespace."""
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
