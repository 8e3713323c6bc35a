"""The numbers of a body: each is accepted at its bounds and refused beyond, and nothing else passes for a number."""

import re
from typing import Any

import pytest

from gateway.api.schemas import LARGEST_MAX_TOKENS, LARGEST_TOP_K, GenerateBody, MessagesBody, ResponsesBody
from gateway.errors import InvalidRequest
from gateway.http.body import parse
from tests.gateway.api.test_schemas import EVERY_ROUTE, chat, generate

SAMPLING_BOUNDS = [
    ("temperature", 0.0, 2.0, -0.001, 2.001),
    ("top_k", 0, LARGEST_TOP_K, -1, LARGEST_TOP_K + 1),
    ("top_p", 0.0, 1.0, -0.001, 1.001),
    ("min_p", 0.0, 1.0, -0.001, 1.001),
    ("presence_penalty", -2.0, 2.0, -2.001, 2.001),
    ("frequency_penalty", -2.0, 2.0, -2.001, 2.001),
    ("repetition_penalty", 0.1, 10.0, 0.099, 10.001),
    ("seed", -(2**63), 2**63 - 1, -(2**63) - 1, 2**63),
]
GENERATE_BOUNDS = [("max_length", 1, 512, 0, 513), *SAMPLING_BOUNDS]
CHAT_BOUNDS = [
    ("max_tokens", 1, LARGEST_MAX_TOKENS, 0, LARGEST_MAX_TOKENS + 1),
    ("max_completion_tokens", 1, LARGEST_MAX_TOKENS, 0, LARGEST_MAX_TOKENS + 1),
    ("n", 1, 128, 0, 129),
    *SAMPLING_BOUNDS,
]


@pytest.mark.parametrize("body", EVERY_ROUTE)
@pytest.mark.parametrize(("name", "lowest", "highest", "below", "above"), SAMPLING_BOUNDS)
def test_a_sampling_parameter_has_the_same_bounds_on_every_route(body, name, lowest, highest, below, above) -> None:
    for value in (lowest, highest):
        asked = body(**{name: value}).generation([1])
        assert getattr(asked if name == "seed" else asked.sampling, name) == value
    for value in (below, above):
        with pytest.raises(InvalidRequest, match=f"^{name} is .* it must be an? ") as refused:
            body(**{name: value})
        assert refused.value.param == name


@pytest.mark.parametrize(("name", "lowest", "highest", "below", "above"), GENERATE_BOUNDS)
def test_a_parameter_of_generate_is_accepted_at_its_bounds_and_refused_beyond(name, lowest, highest, below, above) -> None:
    assert getattr(generate(**{name: lowest}), name) == lowest
    assert getattr(generate(**{name: highest}), name) == highest
    for value in (below, above):
        with pytest.raises(InvalidRequest, match=f"^{name} is .* it must be an? ") as refused:
            generate(**{name: value})
        assert refused.value.param == name


@pytest.mark.parametrize(("name", "lowest", "highest", "below", "above"), CHAT_BOUNDS)
def test_a_parameter_of_chat_is_accepted_at_its_bounds_and_refused_beyond(name, lowest, highest, below, above) -> None:
    assert getattr(chat(**{name: lowest}), name) == lowest
    assert getattr(chat(**{name: highest}), name) == highest
    for value in (below, above):
        with pytest.raises(InvalidRequest, match=f"^{name} is .* it must be ") as refused:
            chat(**{name: value})
        assert refused.value.param == name


@pytest.mark.parametrize("value", ["5", True, 5.5, 5.0, None, [5], {}])
def test_only_an_integer_is_an_integer(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_length is .* it must be an integer from 1 to 512"):
        generate(max_length=value)


@pytest.mark.parametrize("value", ["0.7", True, None, []])
def test_only_a_number_is_a_number(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"temperature is .* it must be a number from 0.0 to 2.0"):
        generate(temperature=value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["temperature", "max_length"])
def test_what_is_no_finite_number_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} is "):
        parse(GenerateBody, f'{{"prompt": "a", "{name}": {value}}}'.encode())


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e999"])
def test_an_object_of_the_clients_own_has_finite_numbers_too(value: str) -> None:
    schema = f'{{"properties": {{"a": [0, {value}]}}}}'
    message = (
        f'"messages": [{{"role": "user", "content": [{{"type": "tool_use", "id": "1", "name": "f", "input": {schema}}}]}}]'
    )
    tools = f'"tools": [{{"type": "function", "name": "f", "parameters": {schema}}}]'
    for body, fields, path in (
        (ResponsesBody, f'"input": "x", {tools}', "tools[0].parameters"),
        (MessagesBody, f'"max_tokens": 1, {message}', "messages[0].content[0].input"),
    ):
        with pytest.raises(InvalidRequest, match=re.escape(f"; {path}.properties.a[1] is ")) as refused:
            parse(body, f'{{"model": "m", {fields}}}'.encode())
        assert refused.value.param == path
    with pytest.raises(InvalidRequest, match="arguments is .* must be a JSON object"):
        call = {"id": "1", "function": {"name": "f", "arguments": schema}}
        chat(messages=[{"role": "assistant", "tool_calls": [call]}])
