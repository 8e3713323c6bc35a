"""What a body may hold, and the sentence that comes back where it holds something else."""

import json
from typing import Any

import pytest

from gateway.api.schemas import (
    LARGEST_MAX_TOKENS,
    ChatBody,
    CompletionBody,
    GenerateBody,
    ResponsesBody,
)
from gateway.errors import LONGEST_ECHO, InvalidRequest
from gateway.http.body import parse

GENERATE = {"prompt": "你好，世界"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def generate(**fields: Any) -> GenerateBody:
    return parse(GenerateBody, json.dumps(GENERATE | fields).encode())


def chat(**fields: Any) -> ChatBody:
    return parse(ChatBody, json.dumps(CHAT | fields).encode())


def completion(**fields: Any) -> CompletionBody:
    return parse(CompletionBody, json.dumps({"model": "m", "prompt": "Hello"} | fields).encode())


def response(**fields: Any) -> ResponsesBody:
    return parse(ResponsesBody, json.dumps({"model": "m", "input": "Hello"} | fields).encode())


EVERY_ROUTE = [generate, chat, completion, response]


def content_of(*parts: Any) -> str:
    return chat(messages=[{"role": "user", "content": list(parts)}]).messages[0].content


def test_the_defaults_are_the_documented_ones() -> None:
    body = generate()
    assert (body.max_length, body.temperature, body.top_k, body.seed, body.stream) == (150, 0.7, 50, None, False)
    asked = chat().generation([1, 2])
    sampling = asked.sampling
    assert (asked.prompt_tokens, asked.seed, asked.stop) == ([1, 2], None, ())
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 50, 0.9)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.0, 0.0)


def test_without_a_number_a_conversation_gets_the_rest_of_the_context_and_a_completion_16_tokens() -> None:
    assert [generate().answer_tokens, completion().answer_tokens] == [150, 16]
    for body, name in ((chat, "max_tokens"), (chat, "max_completion_tokens"), (response, "max_output_tokens")):
        assert body().answer_tokens is None and body(**{name: None}).answer_tokens is None
        assert body(**{name: 7}).answer_tokens == 7
        assert body(min_tokens=5000).generation([1]).max_tokens == LARGEST_MAX_TOKENS


@pytest.mark.parametrize("body", EVERY_ROUTE)
def test_a_seed_of_minus_one_is_a_random_one_as_at_other_servers(body: Any) -> None:
    assert body(seed=-1).generation([1]).seed is None
    for fixed in (-2, 0, 1):
        assert body(seed=fixed).generation([1]).seed == fixed


def test_generate_samples_from_the_whole_of_top_k() -> None:
    assert generate(top_k=7).generation([1]).sampling.top_p == 1.0


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_only_true_and_false_are_booleans(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="stream is .* it must be true or false"):
        generate(stream=value)


@pytest.mark.parametrize("value", ["", 5, None, ["a"]])
def test_a_prompt_is_a_string_that_is_not_empty(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt is .* it must be a string that is not empty"):
        generate(prompt=value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequest, match="^prompt is missing; it must be a string that is not empty.$"):
        parse(GenerateBody, b"{}")
    with pytest.raises(InvalidRequest, match="^model is missing"):
        parse(ChatBody, b'{"messages": []}')


@pytest.mark.parametrize("name", ["max_tokens", "n", "Prompt"])
def test_an_unknown_field_is_refused_by_name_with_those_there_are(name: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f"^{name} is not supported here; the fields that are: prompt, max_length, top_p"
    ) as refused:
        generate(**{name: 1})
    assert refused.value.param == name


@pytest.mark.parametrize("name", ["best_of", "functions", "function_call", "audio", "prediction", "suffix", "typical_p"])
def test_what_chat_does_not_do_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} is not supported here") as refused:
        chat(**{name: [1]})
    assert refused.value.param == name


@pytest.mark.parametrize("body", [chat, response])
def test_without_tools_what_clients_say_of_them_changes_nothing(body) -> None:
    for fields in ({"tools": []}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}):
        assert body(**fields).generation([1]) == body().generation([1])


def test_what_people_try_is_refused_with_what_to_do_instead() -> None:
    for body, name, advice in (
        (completion, "suffix", "cannot fill a gap"),
        (response, "previous_response_id", "send the earlier messages"),
        (chat, "functions", "use tools"),
        (chat, "guided_json", "json_schema"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{name} is not supported here: .*{advice}"):
            body(**{name: "x"})


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"service_tier": "auto"},
        {"logprobs": False},
        {"n": 1},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"prompt_cache_retention": "24h"},
        {"messages": [{"role": "user", "content": "Hello", "name": "alice"}]},
        {"tools": None, "logit_bias": None, "temperature": None, "stop": None, "stream_options": None},
    ],
)
def test_what_clients_send_and_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).generation([1]) == chat().generation([1])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "regex", "regex": "a" * 65_537}}, "response_format.regex"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
        ({"min_tokens": 3, "max_completion_tokens": 2, "max_tokens": 5}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"temperature": 1}}, "metadata.temperature"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{"role": "assistant", "content": "a", "annotations": [{}]}]}, "messages[0].annotations"),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning_content": "b"}]}, "messages[0].reasoning_content"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 1}, "stop"),
        ({"model": 1}, "model"),
    ],
)
def test_the_refused_part_is_named_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param} is ")


def test_variables_of_a_template_leave_out_what_the_request_itself_passes() -> None:
    assert chat(chat_template_kwargs={"enable_thinking": False}).chat_template_kwargs == {"enable_thinking": False}
    for name in ("messages", "tools", "add_generation_prompt", "self"):
        with pytest.raises(InvalidRequest, match=f'^chat_template_kwargs is .*; chat_template_kwargs has "{name}"'):
            chat(chat_template_kwargs={name: []})
    with pytest.raises(InvalidRequest, match="^chat_template_kwargs is"):
        chat(chat_template_kwargs={str(number): number for number in range(17)})


def test_stop_is_a_string_or_up_to_four() -> None:
    assert chat(stop="a").generation([1]).stop == ("a",)
    assert chat(stop=["a", "b", "c", "d"]).generation([1]).stop == ("a", "b", "c", "d")
    assert chat(stop=[]).generation([1]).stop == ()


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert chat(max_completion_tokens=7).generation([1]).max_tokens == 7
    assert chat(max_completion_tokens=7, max_tokens=9).generation([1]).max_tokens == 7
    assert chat(max_tokens=9).generation([1]).max_tokens == 9


def test_text_parts_become_lines_and_other_parts_are_refused() -> None:
    assert content_of({"type": "text", "text": "a"}, {"type": "text", "text": "b"}) == "a\nb"
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": 1}, {"type": "text"}, "a"):
        with pytest.raises(InvalidRequest, match=r"messages\[0\].content is .* a list of text parts"):
            content_of(part)


def test_an_answer_of_ours_can_be_sent_back_as_it_came() -> None:
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": None, "tool_calls": None}
    assert chat(messages=[answer]).conversation[0] == {"role": "assistant", "content": "Hi"}


def test_a_developer_is_a_system_to_the_template() -> None:
    body = chat(messages=[{"role": "developer", "content": "Be kind."}])
    assert body.conversation[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("body", [b"", b"{", b"prompt=a", b'{"prompt": "a",}', b"\xff", b'{"prompt": "\\ud800"}'])
def test_what_is_no_json_is_refused_without_a_parameter(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="^The body is not valid JSON: ") as refused:
        parse(GenerateBody, body)
    assert refused.value.param is None


@pytest.mark.parametrize("body", [b"[]", b"5", b'"prompt"', b"null"])
def test_what_is_no_object_is_refused_without_a_parameter(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="^The body must be a JSON object; got ") as refused:
        parse(GenerateBody, body)
    assert refused.value.param is None


def test_what_came_is_repeated_escaped_and_cut_short() -> None:
    with pytest.raises(InvalidRequest) as refused:
        generate(max_length="\x1b[31m\n界" + "x" * 10_000)
    message = refused.value.message
    assert message.isascii() and message.isprintable()
    assert "\\u001b[31m\\n\\u754c" in message
    assert len(message) < LONGEST_ECHO + 80
    with pytest.raises(InvalidRequest) as refused:
        generate(**{"\x1b" + "y" * 10_000: 1})
    assert refused.value.message.isprintable() and len(refused.value.param or "") <= LONGEST_ECHO
