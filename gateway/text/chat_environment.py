"""Renders chat templates as transformers does: the same Jinja environment, and the same names besides the messages.

`gateway/text/chat_environment.py` and `export/text/chat_environment.py` are copies of each other: the export tries what the
gateway will render, and neither imports the other. Imports only Jinja and the standard library.
Source: transformers, utils/chat_template_utils.py.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

ABSENT = {"tools": None, "documents": None}  # defaults, as in transformers


def compile_template(source: str) -> jinja2.Template:
    """Compiles a template in Jinja's sandbox. Rendering can take any time and memory: do it only where both are limited."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
        optimized=False,  # else constants would be computed even in branches that are never taken
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": TemplateDict(),
        "namespace": TemplateNamespace,
    }
    return environment.from_string(source)


def render(template: jinja2.Template, conversation: dict[str, Any]) -> str:
    """``conversation``: ``messages``, ``add_generation_prompt``, perhaps ``tools``. Special tokens are part of the template."""
    return template.render(**ABSENT | conversation)


class GenerationTag(Extension):
    """`{% generation %}` … `{% endgeneration %}`: marks what training learns from; renders its content."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own way to declare them

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class TemplateDict:
    """`dict`, without the class's attributes."""

    def __call__(self, *pairs: Any, **items: Any) -> dict[Any, Any]:
        return dict(*pairs, **items)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


class TemplateNamespace(Namespace):
    def __init__(*arguments: Any, **attributes: Any) -> None:
        self, *pairs = arguments
        attributes = dict(*pairs, **attributes)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace of a chat template may have no attribute {name!r}")


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own version escapes HTML characters and sorts the keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)
