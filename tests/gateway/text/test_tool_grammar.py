"""Constrained calls without a model: random tokens that the mask allows always make calls that parse and validate."""

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from gateway.errors import InvalidRequest
from gateway.text.deferred_matcher import DeferredMatcher
from gateway.text.grammar import Grammar, Matcher
from gateway.text.tool_calls import FORMS, HERMES, LLAMA, MISTRAL, CallForm, Tool, ToolUse
from gateway.text.tool_grammar import grammar_text
from gateway.text.tool_reader import Call, ToolReader, read_all
from gateway.text.tools import ToolSupport
from tests.gateway.grammars import COMPILER, END, TOKENIZER, walk

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20, "description": "of the world"},
        "day": {"type": "string", "format": "date"},
        "hours": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 23}, "maxItems": 3},
        "unit": {"$ref": "#/$defs/unit"},
    },
    "required": ["city", "day", "unit"],
    "$defs": {"unit": {"enum": ["celsius", "fahrenheit"]}},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": WEATHER,
    "weather_code": {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"}},
        "required": ["code"],
    },
    "clock": {"type": "object", "properties": {}},
    "note": {},
}
TOOLS = tuple(Tool(name, "", schema) for name, schema in SCHEMAS.items())
REQUIRED = ToolUse(TOOLS, tuple(SCHEMAS), required=True)


def compiled(use: ToolUse, form: CallForm) -> Matcher:
    return COMPILER.compile(Grammar("tools", grammar_text(use, form)))


def calls_in(text: str, form: CallForm) -> list[Call]:
    """All of the text is calls, each of which validates and has no arguments but those of its schema."""
    reader = ToolReader(form, tuple(SCHEMAS))
    shown, calls = read_all(reader, text)
    assert not shown and calls and reader.whole, text
    for call in calls:
        arguments, schema = json.loads(call.arguments), SCHEMAS[call.name]
        jsonschema.validate(arguments, schema)
        assert "properties" not in schema or arguments.keys() <= schema["properties"].keys()
    return calls


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_random_tokens_make_calls_that_validate_whatever_tokens_there_are(form: CallForm) -> None:
    matcher, called, several = compiled(REQUIRED, form), set[str](), 0
    for seed in range(24):
        calls = calls_in(walk(matcher, seed, 60 + 10 * seed)[0], form)
        called |= {call.name for call in calls}
        several += len(calls) > 1
    assert called == SCHEMAS.keys()  # none is preferred, because its calls are shorter
    assert (several > 0) == (form.between is not None)
    alone = compiled(ToolUse(TOOLS, tuple(SCHEMAS), required=True, parallel=False), form)
    assert all(len(calls_in(walk(alone, seed, 150)[0], form)) == 1 for seed in range(6))


def test_a_function_may_have_the_name_of_a_placeholder_and_a_text_the_name_of_a_special_token() -> None:
    value = {"a": "<|endoftext|></tool_call>"}
    schema = {"type": "object", "properties": {"a": {"const": value["a"]}}, "required": ["a"]}
    for form in FORMS.values():
        for name in ("ARGUMENTS", "NAME", "NAME_ARGUMENTS"):
            matcher = compiled(ToolUse((Tool(name, "", schema),), (name,), required=True, parallel=False), form)
            reader = ToolReader(form, (name,))
            shown, (call,) = read_all(reader, walk(matcher, 3, 90)[0])
            assert not shown and call.name == name and json.loads(call.arguments) == value


def test_only_functions_that_may_be_called_are_called() -> None:
    matcher = compiled(ToolUse(TOOLS, ("clock",), required=True), HERMES)
    for seed in range(4):
        assert {call.name for call in calls_in(walk(matcher, seed, 200)[0], HERMES)} == {"clock"}


@pytest.mark.parametrize(
    ("form", "free"),
    [
        (HERMES, "I look.\n<tool_call>"),
        (HERMES, "<tool_call>\n{"),
        (HERMES, 'So <tool_call>{"name": "weather", "arguments": {"ci'),
        (MISTRAL, '[TOOL_CALLS][{"na'),
        (LLAMA, '{"name": "weather"'),
        (LLAMA, '{"name": "clock", "param'),
        (LLAMA, '<|python_tag|>{"name": "'),
        (HERMES, "<tool_call>\n\n  "),
        (LLAMA, '{\n  "name": "weather"'),
        (LLAMA, '{ "name" : "clock" ,'),
    ],
)
def test_calls_that_the_model_begins_are_completed_however_tokens_cut_their_beginning(form: CallForm, free: str) -> None:
    """Tokens may carry the tag's end and more: whatever the last one has of the call counts."""
    start = compiled(REQUIRED, form).start
    begin = next(free.index(mark) for mark in ("<tool", "[TOOL", "<|py", "{") if mark in free)
    opens = form.tag if form.tag in free else re.findall('"[a-z]+"', free)[1]
    opened = free.index(opens) + len(opens)
    for cut in range(begin, opened):
        matcher = DeferredMatcher(start, form, tuple(SCHEMAS))
        watch_bytes(matcher, free[:cut])
        assert not matcher.active, free[:cut]
        watch_bytes(matcher, free[cut:])
        assert matcher.active and not matcher.copy().active
        calls_in(free[begin:] + walk_on(matcher, cut, 120), form)


def watch_bytes(matcher: DeferredMatcher, text: str) -> None:
    """As `watch`, of a token with these bytes, which GPT-2's vocabulary need not have."""
    matcher._written = matcher._trigger.begun_with(text.encode())


def walk_on(matcher: Matcher, seed: int, tokens: int) -> str:
    """As `walk`, of a matcher that has begun."""
    chance, text = np.random.default_rng(seed), b""
    for left in range(tokens, 0, -1):
        token = matcher.advance(int(chance.choice(np.flatnonzero(matcher.allowed()))), left)
        if token == END:
            break
        text += TOKENIZER.token_bytes(token)
        if matcher.complete:
            break
    return text.decode()


def test_a_beginning_that_no_call_can_have_leaves_the_text_free() -> None:
    start = compiled(REQUIRED, HERMES).start
    for text, free in (("<tool_call>", False), ("<tool_call>\n", False), ("<tool_call></tool", True), ("<tool_call>[", True)):
        matcher = DeferredMatcher(start, HERMES, tuple(SCHEMAS))
        watch_bytes(matcher, text)
        assert matcher.active and bool(matcher.allowed().all()) == free
        if free:
            assert matcher.advance(END, 10) == END and matcher.advance(5, 1) == 5 and not matcher.complete
            for token in TOKENIZER.encode("no. <tool_call>"):
                assert matcher.allowed().all() and matcher.advance(token, 50) == token
            assert matcher.active and not matcher.allowed().all()  # another tag begins calls after all
            calls_in("<tool_call>" + walk_on(matcher, 1, 120), HERMES)


def test_schemas_that_cannot_be_used_are_refused_by_name_or_left_out_where_they_need_not_hold() -> None:
    support = ToolSupport(TOKENIZER, COMPILER)
    wrong = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
    tools = (*TOOLS, Tool("bad", "", wrong, field="tools[4].function.parameters"))
    names = (*SCHEMAS, "bad")
    with pytest.raises(InvalidRequest, match=r"^tools\[4\].function.parameters: this schema cannot be used: ") as refused:
        support.matcher(ToolUse(tools, names, required=True))
    assert refused.value.param == "tools[4].function.parameters"
    assert "unclosed group" in str(refused.value) and "call_" not in str(refused.value)  # nothing of the grammar around it
    strict = (*TOOLS, Tool("bad", "", wrong, True, "tools[4].function.parameters"))
    with pytest.raises(InvalidRequest, match="cannot be used"):
        support.matcher(ToolUse(strict, names))
    assert support.matcher(ToolUse(strict, tuple(SCHEMAS), required=True)).active  # it may not be called
    free = support.matcher(ToolUse(tools, names))
    assert isinstance(free, DeferredMatcher)
    for name, arguments in (("bad", '{"a": 5, "b": [1]}'), ("weather_code", '{"code": "ABC-1"}')):
        matcher = free.copy()
        watch_bytes(matcher, f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')
        assert not matcher.allowed().all()


def test_a_hundred_tools_of_coding_clients_are_tried_within_their_bounds() -> None:
    support = ToolSupport(TOKENIZER, COMPILER)
    schema = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where " * 200},
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
            },
            "mode": {"enum": ["read", "write"]},
        },
        "required": ["path"],
    }
    tools = tuple(Tool(f"tool_{number}", "", schema) for number in range(100))
    matcher = support.matcher(ToolUse(tools, tuple(tool.name for tool in tools), required=True))
    reader = ToolReader(HERMES, [tool.name for tool in tools])
    assert len(read_all(reader, walk(matcher, 1, 60)[0])[1]) == 1 and reader.whole
