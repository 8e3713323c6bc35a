"""Tools over HTTP with the demonstration model, as OpenAI's client for Python asks for them and reads them."""

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.conftest import DEMO

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "book": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]$"},
            "seats": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "minItems": 1, "maxItems": 3},
        },
        "required": ["day", "seats"],
        "additionalProperties": False,
    },
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": name, "parameters": SCHEMAS[name]}} for name in SCHEMAS]
ASKED = {"role": "user", "content": "What is the weather in Paris?"}


def shots() -> list[Any]:
    """A conversation in which the model has called already: so it does again, small as it is."""
    messages: list[Any] = []
    for index, (city, unit) in enumerate((("Berlin", "celsius"), ("Rome", "celsius"), ("Boston", "fahrenheit"))):
        function = {"name": "get_weather", "arguments": json.dumps({"city": city, "unit": unit})}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": f"c{index}", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": f"c{index}", "content": "20"},
            {"role": "assistant", "content": f"It is 20 degrees in {city}."},
        ]
    return messages


@pytest.fixture(scope="module")
def sdk(gateway_url: str, api_key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway_url}/v1", api_key=api_key, max_retries=0)


def ask(sdk: openai.OpenAI, **asked: Any) -> Any:
    return sdk.chat.completions.create(
        **{"model": DEMO, "messages": [ASKED], "tools": TOOLS, "max_tokens": 90, "seed": 5} | asked
    )


def valid_calls(calls: Any) -> list[tuple[str, str]]:
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return [(call.function.name, call.function.arguments) for call in calls]


def streamed(sdk: openai.OpenAI, **asked: Any) -> tuple[list[dict[str, Any]], Any]:
    """The messages of a stream, put together as OpenAI documents it, and the usage."""
    messages: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in ask(sdk, stream=True, stream_options={"include_usage": True}, **asked):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            message = messages.setdefault(choice.index, {"content": None, "calls": [], "reason": None})
            message["reason"] = choice.finish_reason or message["reason"]
            if choice.delta.content is not None:
                message["content"] = (message["content"] or "") + choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.id is not None:
                    assert (call.type, call.function.arguments, call.index) == ("function", "", len(message["calls"]))
                    message["calls"].append([call.function.name, ""])
                message["calls"][call.index][1] += call.function.arguments
    return [messages[index] for index in sorted(messages)], usage


@pytest.mark.slow
def test_calls_that_are_required_validate_at_temperature_2_streamed_or_whole(sdk: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "book"}}):
        asked: dict[str, Any] = {"tool_choice": choice, "temperature": 2, "n": 3}
        whole = ask(sdk, **asked)
        messages, usage = streamed(sdk, **asked)
        for one, message in zip(whole.choices, messages, strict=True):
            calls = valid_calls(one.message.tool_calls)
            assert (one.finish_reason, one.message.content) == ("tool_calls", None)
            assert calls == [tuple(call) for call in message["calls"]]
            assert (message["reason"], message["content"]) == ("tool_calls", None)
            assert choice == "required" or [name for name, _ in calls] == ["book"]
        assert usage.completion_tokens == whole.usage.completion_tokens > 0 and usage.prompt_tokens == whole.usage.prompt_tokens
    half = ask(sdk, tool_choice="required", max_tokens=5).choices[0]
    assert half.finish_reason == "length"


def test_the_model_calls_by_itself_and_gets_the_result(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": [*shots(), ASKED], "temperature": 0, "stop": ["arguments"]}
    answer = ask(sdk, **asked).choices[0]
    ((name, arguments),) = valid_calls(answer.message.tool_calls)
    assert name == "get_weather" and json.loads(arguments)["city"] == "Paris" and answer.finish_reason == "tool_calls"
    messages, _ = streamed(sdk, **asked)
    assert messages[0]["calls"] == [[name, arguments]]
    back = answer.message.model_dump()
    result = {"role": "tool", "tool_call_id": back["tool_calls"][0]["id"], "content": "18"}
    after = ask(sdk, **asked | {"messages": [*shots(), ASKED, back, result]}).choices[0]
    assert after.finish_reason == "stop" and "18" in after.message.content and after.message.tool_calls is None
    silent = ask(sdk, **asked | {"tool_choice": "none", "max_tokens": 5}).choices[0]
    assert silent.message.tool_calls is None and silent.message.content


@pytest.mark.slow
def test_responses_have_calls_as_items_and_take_their_outputs(sdk: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked: dict[str, Any] = {
        "model": DEMO,
        "tools": tools,
        "temperature": 2,
        "max_output_tokens": 90,
        "extra_body": {"seed": 3},
    }
    asked |= {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "book"}]}}
    whole = sdk.responses.create(input="Weather?", **asked)
    assert whole.status == "completed" and whole.output and whole.tool_choice.type == "allowed_tools"  # type: ignore[union-attr]
    events = list(sdk.responses.create(input="Weather?", stream=True, **asked))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    deltas: dict[str, str] = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
    for call, item in zip(whole.output, done, strict=True):
        assert call.type == item.type == "function_call" and call.status == item.status == "completed"
        assert call.name == item.name == "book" and call.arguments == item.arguments == deltas[item.id]
        jsonschema.validate(json.loads(call.arguments), SCHEMAS["book"])
    history: list[Any] = [{"role": "user", "content": "Weather?"}]
    for call in whole.output:
        assert call.type == "function_call"
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
        history += [call.model_dump(exclude_none=True), output]
    again = sdk.responses.create(model=DEMO, input=history, max_output_tokens=5, temperature=0)
    assert again.output_text and again.output[0].type == "message"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
        ({"tools": [TOOLS[0]] * 129}, "tools"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "none"}}}, "tool_choice.function"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "a"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": shots()[1]["tool_calls"]}]}, "messages[0].tool_calls"),
    ],
)
def test_what_is_wrong_with_tools_is_named(sdk: openai.OpenAI, asked: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(sdk, **asked)
    assert refused.value.param == param


def test_a_schema_and_arguments_that_cannot_be_used_are_named(sdk: openai.OpenAI) -> None:
    wrong = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"pattern": "(", "type": "string"}}}},
    }
    for asked in ({"tool_choice": "required"}, {"tools": [*TOOLS, wrong | {"function": wrong["function"] | {"strict": True}}]}):  # type: ignore[operator]
        with pytest.raises(openai.BadRequestError) as refused:
            ask(sdk, **{"tools": [*TOOLS, wrong]} | asked)
        assert refused.value.param == "tools[3].function.parameters"
    assert ask(sdk, tools=[*TOOLS, wrong], max_tokens=2).choices[0].message.content
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        ask(sdk, messages=[ASKED, {"role": "assistant", "tool_calls": calls}])
    assert refused.value.param == "messages[1].tool_calls[0].function.arguments"
