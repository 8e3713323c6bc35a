"""What /v1/messages takes, and the conversation that it makes of it."""

import json
import sys
from typing import Any

import pytest

from gateway.api.schemas import CountTokensBody, MessagesBody
from gateway.api.serializers.messages import _tool_use
from gateway.errors import InvalidRequest
from gateway.http.body import parse

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
TEXT = {"type": "text", "text": "b"}
CALL = {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": "d", "is_error": False}
TOOL = {"name": "f", "description": "e", "input_schema": {"type": "object", "properties": {"x": {"type": "integer"}}}}
MESSAGES = [{"role": "user", "content": "Hello"}]


def message(**fields: Any) -> MessagesBody:
    return parse(MessagesBody, json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 5} | fields).encode())


def test_a_call_of_any_arguments_that_a_model_can_write_is_a_block_of_json() -> None:
    for arguments, expected in (
        ('{"a": [1e999, {"b": -1e999}]}', {"a": [sys.float_info.max, {"b": -sys.float_info.max}]}),
        ('{"a": 1, "b": "cut', {"a": 1}),
        (f'{{"a": {"9" * 5000}}}', {}),
        ("", {}),
    ):
        block = _tool_use("1", "f", arguments)
        assert json.loads(json.dumps(block, allow_nan=False))["input"] == expected


def said(**fields: Any) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in message(**fields).conversation]


def test_numbers_are_accepted_at_their_bounds_and_refused_beyond() -> None:
    for name, lowest, highest, below, above in (
        ("max_tokens", 1, 1_000_000, 0, 1_000_001),
        ("temperature", 0, 1, -0.001, 1.001),
        ("top_p", 0, 1, -0.001, 1.001),
        ("top_k", 0, 1_000_000, -1, 1_000_001),
    ):
        for value in (lowest, highest):
            assert getattr(message(**{name: value}), name) == value
        for value in (below, above, "1", [1]):
            with pytest.raises(InvalidRequest, match=f"^{name} is .* it must be an? ") as refused:
                message(**{name: value})
            assert refused.value.param == name


def test_fields_become_a_request_as_those_of_other_routes_do() -> None:
    asked = message(max_tokens=7, stop_sequences=["a", "b"], temperature=0.5, top_p=0.8, top_k=9, seed=3).generation([1, 2])
    assert (asked.max_tokens, asked.stop, asked.seed, asked.prompt_field) == (7, ("a", "b"), 3, "messages")
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k) == (0.5, 0.8, 9)
    defaults = message(stop_sequences=None, temperature=None, system=None, metadata=None).generation([1]).sampling
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.7, 0.9, 50)


def test_system_comes_first_and_messages_of_one_role_in_a_row_are_one_turn() -> None:
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}
    assert said() == [("user", "Hello")]
    assert said(system="Be brief.") == [("system", "Be brief."), ("user", "Hello")]
    assert said(system=blocks, messages=[user, user, assistant]) == [
        ("system", "a\nb"),
        ("user", "Hi\nHi"),
        ("assistant", "a\nb"),
    ]


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "param", "message_"),
    [
        ({"max_tokens": None}, "max_tokens", "is missing; it must be an integer"),
        ({"messages": []}, "messages", "a list of 1 to 2048 messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role", "a system message goes in system"),
        (user(IMAGE), "messages[0].content[0]", 'content[0].type is "image"'),
        (user({"type": "document"}), "messages[0].content[0]", 'content[0].type is "document"'),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "has no block"),
        (user({"type": "text"}), "messages[0].content[0].text", "is missing"),
        (user(TEXT | {"id": "a"}), "messages[0].content[0].id", 'cannot go with type "text"'),
        (user(CALL), "messages[0].content[0].type", 'only allowed with role "assistant"'),
        (user(RESULT), "messages[0].content[0].tool_use_id", "no call before it has that id"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "as of another tool"),
        ({"tools": [TOOL | {"input_schema": {"type": "string"}}]}, "tools[0].input_schema.type", 'it must be "object"'),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "are not known here"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type", "it needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name", "must be given"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "f"}}, "tool_choice.name", "and only then"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name", "tools has none of that name"),
        ({"system": [{"type": "text"}]}, "system", "system[0].text is missing"),
        ({"stop_sequences": "a"}, "stop_sequences", "a list of up to 16 strings"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences", "a list of up to 16 strings"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens", "is not supported here"),
        ({"thinking": {"type": "adaptive"}}, "thinking.type", "do not think before they answer"),
        ({"metadata": {"name": "a"}}, "metadata.name", "is not supported here"),
        ({"container": "a"}, "container", "is not supported here"),
        ({"min_tokens": 6}, "min_tokens", "it must be at most max_tokens, 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, message_: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        message(**fields)
    assert refused.value.param == param and message_ in refused.value.message, refused.value.message


def test_calls_and_their_results_are_those_that_templates_read() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [TEXT, CALL]}]
    results = {"role": "user", "content": [RESULT, TEXT]}
    *_, called, result, last = message(messages=[*turns, results]).conversation
    function = {"name": "f", "arguments": {"x": 1}}
    assert called == {
        "role": "assistant",
        "content": "b",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "c", "d")
    assert last == {"role": "user", "content": "b"}


def test_the_choice_among_tools_is_any_one_or_none() -> None:
    for choice, callable_, required, parallel in (
        (None, ("f", "g"), False, True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("f", "g"), False, False),
        ({"type": "any"}, ("f", "g"), True, True),
        ({"type": "tool", "name": "g"}, ("g",), True, False),
    ):
        use = message(tools=[TOOL, TOOL | {"name": "g"}], tool_choice=choice).tool_use
        assert use is not None and [tool.name for tool in use.tools] == ["f", "g"]
        assert (use.callable, use.required, use.parallel) == (callable_, required, parallel)
    assert message().tool_use is None and message(tools=[TOOL], tool_choice={"type": "none"}).tool_use is None


def test_counting_takes_what_makes_the_prompt_and_nothing_else() -> None:
    counted = {"model": "m", "messages": MESSAGES, "system": "a", "thinking": {"type": "disabled"}, "tools": [TOOL]}
    assert len(parse(CountTokensBody, json.dumps(counted).encode()).conversation) == 2
    with pytest.raises(InvalidRequest, match="max_tokens is not supported here"):
        parse(CountTokensBody, json.dumps(counted | {"max_tokens": 1}).encode())
