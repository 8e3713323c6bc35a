"""What /v1/messages takes, and the conversation that it makes of it."""

import json
from typing import Any

import pytest

from gateway.api.schemas import CountTokensBody, MessagesBody
from gateway.errors import InvalidRequest
from gateway.http.body import parse

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
MESSAGES = [{"role": "user", "content": "Hello"}]


def message(**fields: Any) -> MessagesBody:
    return parse(MessagesBody, json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 5} | fields).encode())


def said(**fields: Any) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in message(**fields).conversation()]


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


@pytest.mark.parametrize(
    ("fields", "param", "message_"),
    [
        ({"max_tokens": None}, "max_tokens", "is missing; it must be an integer"),
        ({"messages": []}, "messages", "a list of 1 to 2048 messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role", "a system message goes in system"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content", '[0].type is "image"'),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content", '[0].type is "document"'),
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


def test_counting_takes_what_makes_the_prompt_and_nothing_else() -> None:
    counted = {"model": "m", "messages": MESSAGES, "system": "a", "thinking": {"type": "disabled"}}
    assert len(parse(CountTokensBody, json.dumps(counted).encode()).conversation()) == 2
    with pytest.raises(InvalidRequest, match="max_tokens is not supported here"):
        parse(CountTokensBody, json.dumps(counted | {"max_tokens": 1}).encode())
