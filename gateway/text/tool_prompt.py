"""Renders conversations with tools: with the model's own chat template if it supports tools, else in Hermes' form.

The template's syntax tree shows whether it supports tools, and in which form the model writes calls.
"""

import json
from typing import Any

import jinja2
from jinja2 import nodes

from gateway.text.tool_calls import HERMES, NAME, CallForm, form_of

Message = dict[str, Any]

INTRODUCTION = """\
You may call functions to answer the user. These are their signatures, a JSON object each:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as a JSON object:
{example}"""


def own_form(template: jinja2.Template, source: str) -> CallForm | None:
    """Returns the form of calls according to the template, or None if the template does not use tools."""
    tree = template.environment.parse(source)
    if not any(name.name == "tools" and name.ctx == "load" for name in tree.find_all(nodes.Name)):
        return None
    data = [str(node.data) for node in tree.find_all(nodes.TemplateData)]
    return form_of("\n".join(data + [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]))


def plain_conversation(messages: list[Message], tools: list[dict[str, Any]], *, system: bool = True) -> list[Message]:
    """Rewrites a conversation as messages that any template supports. ``system``: introduces the tools in the system message,
    else in the first user message."""
    plain = list[Message]()
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1]["role"] == "user" and plain[-1]["content"].endswith("</tool_response>"):
                content = f"{plain.pop()['content']}\n{content}"
        elif calls := message.get("tool_calls"):
            content = "\n".join(filter(None, [content, _written([call["function"] for call in calls])]))
        plain.append({"role": role, "content": content})
    return _introduced(plain, tools, "system" if system else "user") if tools else plain


def _introduced(messages: list[Message], tools: list[dict[str, Any]], role: str) -> list[Message]:
    """Introduces the tools in the first message if it has ``role``, else in a new message before it."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = HERMES.opening + '{"name": "a function", "arguments": {}}' + HERMES.closing
    text = INTRODUCTION.format(tools=signatures, example=example)
    if messages and messages[0]["role"] == role:
        content = messages[0]["content"]
        text, messages = f"{content}\n\n{text}" if role == "system" else f"{text}\n\n{content}", messages[1:]
    return [{"role": role, "content": text}, *messages]


def _written(calls: list[dict[str, Any]]) -> str:
    """Writes calls as the model itself would."""
    texts = [
        HERMES.head.replace(NAME, call["name"]) + json.dumps(call["arguments"], ensure_ascii=False) + HERMES.tail
        for call in calls
    ]
    return HERMES.opening + (HERMES.between or "").join(texts) + HERMES.closing
