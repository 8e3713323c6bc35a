"""Conversations with tools are rendered as transformers renders them, and a template tells how its model writes calls."""

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from export.text import tokenizers as exported
from gateway.text.grammar import GrammarCompiler
from gateway.text.tokenizer import Tokenizer
from gateway.text.tool_calls import Tool, ToolUse
from gateway.text.tool_prompt import plain_conversation
from gateway.text.tools import ToolSupport
from tests.gateway.grammars import COMPILER, END

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a1", "type": "function", "function": {"name": "get", "arguments": {"city": "Köln", "n": 2}}}],
    },
    {"role": "tool", "tool_call_id": "a1", "name": "get", "content": "18 °C"},
    {"role": "user", "content": "Thanks."},
]
GET = Tool("get", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
USE = ToolUse((GET,), ("get",))
TOKENIZER_JSON = exported.gpt2().tokenizer_json
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
REST = "{% endfor %}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
HERMES = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    + TURNS
    + '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + REST
)
LLAMA = (
    "{% if not tools is defined %}{% set tools = none %}{% endif %}"
    "{% if tools is not none %}{{ tools[0] | tojson(indent=4) }}{% endif %}"
    + TURNS
    + "{{ '{\"name\": \"' + c.function.name + '\", ' }}{{ '\"parameters\": ' }}{{ c.function.arguments | tojson }}{{ '}' }}"
    + REST
)
MISTRAL = (
    "{% if tools is not none %}[AVAILABLE_TOOLS]{{ tools[0].function.items() | list | length }}[/AVAILABLE_TOOLS]{% endif %}"
    + TURNS
    + "{{ '[TOOL_CALLS][' + (c.function | tojson) + ']' }}"
    + REST
)
OTHER = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}" + TURNS + REST
PLAIN = "{# tools #}{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<tool_call>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN


def prompt(template: str, messages: list[dict[str, Any]] = MESSAGES, tools: tuple[Tool, ...] = (GET,)) -> str:
    tokenizer = Tokenizer(TOKENIZER_JSON, template)
    offered = [tool.for_template() for tool in tools]
    return tokenizer.decode(tokenizer.apply_chat_template(messages, tools=offered or None), skip_special_tokens=False)


@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL, OTHER], ids=["hermes", "llama", "mistral", "other"])
def test_a_template_that_knows_tools_gets_what_transformers_gives_it(template: str) -> None:
    for tools in ((GET,), ()):
        offered = [tool.for_template() for tool in tools] or None
        theirs, _ = render_jinja_template(
            conversations=[MESSAGES], tools=offered, documents=None, chat_template=template, add_generation_prompt=True
        )
        assert prompt(template, tools=tools) == theirs[0]


def test_a_template_that_knows_none_gets_them_in_the_form_of_hermes() -> None:
    signature = json.dumps(GET.for_template(), ensure_ascii=False)
    text = prompt(PLAIN)
    assert text.startswith("<system>Be brief.\n\nYou may call functions") and f"<tools>\n{signature}\n</tools>" in text
    assert '<assistant><tool_call>\n{"name": "get", "arguments": {"city": "Köln", "n": 2}}\n</tool_call>' in text
    assert "<user><tool_response>\n18 °C\n</tool_response><user>Thanks." in text
    assert prompt(PLAIN, tools=()).startswith("<system>Be brief.<user>Weather")
    first = prompt(NO_SYSTEM, MESSAGES[1:])
    assert first.startswith("<user>You may call functions") and first.split("<assistant>")[0].endswith("\n\nWeather in Köln?")
    results = plain_conversation([MESSAGES[3], MESSAGES[3]], [])
    assert [message["content"].count("18 °C") for message in results] == [2]
    call = {"function": {"name": "ARGUMENTS", "arguments": {"NAME": "ARGUMENTS"}}}
    (written,) = plain_conversation([{"role": "assistant", "content": "", "tool_calls": [call]}], [])
    assert '{"name": "ARGUMENTS", "arguments": {"NAME": "ARGUMENTS"}}' in written["content"]


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (HERMES, "hermes"),
        (LLAMA, "llama"),
        (MISTRAL, "mistral"),
        (MISTRAL + "{{ '[ARGS]' }}", "mistral_args"),
        (OTHER, "json"),
        (PLAIN, "hermes"),
        ("{{ 'tools' }}", "hermes"),
        ("{% broken", "hermes"),
        (None, "hermes"),
    ],
)
def test_the_form_of_calls_is_read_from_what_the_template_does_with_tools(template: str | None, form: str) -> None:
    assert ToolSupport(Tokenizer(TOKENIZER_JSON, template), COMPILER).form.name == form


def test_a_tag_that_is_a_special_token_is_seen_in_the_text_and_by_the_grammar() -> None:
    document = json.loads(TOKENIZER_JSON)
    tag = {"id": END + 1, "content": "[TOOL_CALLS]", "special": True, "normalized": False}
    document["added_tokens"].append(tag | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))
    tokenizer = Tokenizer(json.dumps(document), MISTRAL)
    support = ToolSupport(tokenizer, GrammarCompiler(tokenizer, END + 2, frozenset({END})))
    assert support.visible_tokens == {END + 1}
    tokens = [END + 1, *tokenizer.encode('[{"name": "get", "arguments": {"city": "Bonn"}}]')]
    assert tokenizer.decode_stream([], ()).extend(tokens).startswith("[{")
    stream = tokenizer.decode_stream([], ("</s>",), support.visible_tokens)
    assert "".join(map(stream.push, tokens)) + stream.finish() == '[TOOL_CALLS][{"name": "get", "arguments": {"city": "Bonn"}}]'
    required = support.matcher(ToolUse((GET,), ("get",), required=True))
    assert required.allowed()[END + 1]
    for left, token in zip(range(99, 0, -1), tokens, strict=False):
        assert required.allowed()[token] and required.advance(token, left) == token
    free = support.matcher(USE)
    free.watch(END + 1)
    assert free.active and not free.allowed().all()
