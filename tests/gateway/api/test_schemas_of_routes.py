"""What a body may hold on one route or another: formats, prompts, input, and fields that have to fit each other."""

import json
import re
from typing import Any

import pytest

from gateway.api.schemas import (
    Body,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerateBody,
    ResponsesBody,
    SamplingBody,
    TokenizeBody,
    fields_of,
)
from gateway.errors import InvalidRequest
from gateway.http.body import parse
from gateway.text.grammar import Grammar
from tests.gateway.api.test_schemas import chat, completion, generate, response

FORMATS = [
    ({"type": "text"}, None),
    ({}, None),
    ({"type": "json_object"}, Grammar("json_object", "")),
    ({"type": "regex", "regex": "a+"}, Grammar("regex", "a+")),
    ({"type": "grammar", "grammar": 'start: "a"'}, Grammar("lark", 'start: "a"')),
]
SCHEMA = {"type": "object", "properties": {"名": {"type": "string"}}}


@pytest.mark.parametrize(("asked", "grammar"), FORMATS)
def test_a_format_is_the_same_grammar_on_every_route(asked: dict[str, Any], grammar: Grammar | None) -> None:
    for body in (generate, chat, completion):
        assert body(response_format=asked).grammar() == grammar
    assert response(text={"format": asked}).grammar() == grammar


def test_a_json_schema_has_the_form_of_its_route() -> None:
    named = {"name": "person", "description": "d", "strict": True, "schema": SCHEMA}
    for grammar in (
        chat(response_format={"type": "json_schema", "json_schema": named}).grammar(),
        response(text={"format": {"type": "json_schema"} | named}).grammar(),
    ):
        assert grammar and grammar.kind == "json_schema" and json.loads(grammar.text) == SCHEMA


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"type": "regex"}, "regex"),
        ({"type": "grammar", "regex": "a"}, "grammar"),
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "text", "regex": "a"}, "regex"),
        ({"regex": "a"}, "regex"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"title": "x" * 65_536}}}, "json_schema.schema"),
    ],
)
def test_a_format_has_what_its_type_needs_and_no_more(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(response_format=asked).grammar()
    assert refused.value.param == f"response_format.{param}"


def test_a_format_of_responses_names_its_own_path() -> None:
    with pytest.raises(InvalidRequest, match="^text.format.name is missing") as refused:
        response(text={"format": {"type": "json_schema", "schema": {}}}).grammar()
    assert refused.value.param == "text.format.name"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_of_completions_is_text_or_tokens_one_or_several(prompt: Any, prompts: list[Any]) -> None:
    assert completion(prompt=prompt).prompt == prompts


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [1, "a"], ["a", 1], ["a", [1]], [True], [1.0], {}, 5, ["a"] * 129])
def test_any_other_prompt_is_refused_with_what_is_allowed(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="^prompt is .* it must be a string, a list of token ids, or ") as refused:
        completion(prompt=prompt)
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"prompt": ["a", "b"], "n": 65}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0, "echo": True, "min_tokens": 1}, "min_tokens"),
    ],
)
def test_numbers_of_completions_have_to_fit_each_other(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{param} ") as refused:
        completion(**fields)
    assert refused.value.param == param


def test_best_of_asks_for_log_probabilities_and_echo_for_those_of_the_prompt() -> None:
    assert completion().generation([1]).logprobs is None
    assert completion(best_of=2).generation([1]).logprobs == 0
    assert completion(best_of=2, n=2).generation([1]).logprobs is None
    for fields, alternatives in (
        ({"logprobs": 2}, None),
        ({"echo": True}, None),
        ({"echo": True, "logprobs": 2}, 2),
        ({"echo": True, "max_tokens": 0}, 0),
        ({"prompt_logprobs": 0}, 0),
        ({"echo": True, "logprobs": 2, "prompt_logprobs": 20}, 20),
    ):
        assert completion(**fields).generation([1]).prompt_logprobs == alternatives, fields


def test_log_probabilities_of_a_prompt_are_not_streamed() -> None:
    for body in (chat, completion):
        for count in (0, 20):
            assert body(prompt_logprobs=count, stream=False).generation([1]).prompt_logprobs == count
        for count in (-1, 21):
            with pytest.raises(InvalidRequest, match="^prompt_logprobs is .*; it must be an integer from 0 to 20"):
                body(prompt_logprobs=count)
        with pytest.raises(InvalidRequest, match='^prompt_logprobs is not allowed with "stream": true.$') as refused:
            body(prompt_logprobs=1, stream=True)
        assert refused.value.param == "prompt_logprobs"


def test_the_input_of_responses_is_a_text_or_messages() -> None:
    conversation = response(input="Hi", instructions="Be kind.").conversation
    assert conversation == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    answered = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}
    assert [message["content"] for message in response(input=[asked, answered]).conversation] == ["a\nb", "Hello"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].call_id"),
        ({"input": [{"content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
def test_what_responses_does_not_do_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(param)} is ") as refused:
        response(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True}, "add_special_tokens"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
    ],
)
def test_tokenize_takes_a_prompt_or_messages(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(TokenizeBody, json.dumps(fields).encode())
    assert refused.value.param == param


@pytest.mark.parametrize("schema", [GenerateBody, ChatBody, CompletionBody, ResponsesBody, TokenizeBody, DetokenizeBody])
def test_every_field_says_what_is_allowed(schema: type[Body]) -> None:
    for name, field in fields_of(schema).items():
        assert field.description, name


@pytest.mark.parametrize("schema", [GenerateBody, ChatBody, CompletionBody, ResponsesBody])
def test_what_changes_nothing_is_accepted_on_every_generating_route(schema: type[SamplingBody]) -> None:
    fields = fields_of(schema)
    assert {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"} <= fields.keys()
