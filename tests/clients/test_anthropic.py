"""Anthropic's Python client against /v1/messages: whole and streamed, counting tokens, its own exceptions."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pytest

from testing.triton import Triton
from tests.conftest import DEMO, ROOT, gateway_process
from tests.gateway.http_client import client

ASKED: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
MODEL = "latest_checkpoint.pt"
GREEDY: dict[str, Any] = {"temperature": 0}  # the client has no parameter for it any more


def claude_for(url: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def claude(gateway_url: str, api_key: str) -> Iterator[anthropic.Anthropic]:
    """Over SmolLM2-135M-Instruct."""
    with claude_for(gateway_url, api_key) as opened:
        yield opened


def ask(claude: anthropic.Anthropic, messages: list[Any] = ASKED, max_tokens: int = 40, **parameters: Any) -> Any:
    extra = GREEDY | parameters.pop("extra_body", {})
    return claude.messages.create(model=MODEL, messages=messages, max_tokens=max_tokens, extra_body=extra, **parameters)


def test_a_message_is_complete(claude: anthropic.Anthropic) -> None:
    message = ask(claude, max_tokens=60)
    (block,) = message.content
    assert (block.type, message.type, message.role) == ("text", "message", "assistant") and "Tokyo" in block.text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None) and message.id.startswith("msg_")
    assert message._request_id and message._request_id.startswith("req_")
    counted = claude.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens == counted
    assert usage.output_tokens > 2
    with client(str(claude.base_url), claude.api_key) as http:  # the same prompt and the same text as on OpenAI's route
        body = {"model": MODEL, "messages": ASKED, "max_tokens": 60, "temperature": 0}
        other = http.post("/v1/chat/completions", json=body).json()
    assert other["choices"][0]["message"]["content"] == block.text
    assert (other["usage"]["prompt_tokens"], other["usage"]["completion_tokens"]) == (counted, usage.output_tokens)


def test_a_stream_is_anthropics_sequence_of_events_and_the_whole_message(claude: anthropic.Anthropic) -> None:
    whole = ask(claude)
    events = list(ask(claude, stream=True))
    kinds = [event.type for event in events if event.type != "content_block_delta"]
    assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
    start, *_, delta, _stop = events
    assert (start.message.content, start.message.stop_reason, start.message.usage.output_tokens) == ([], None, 0)
    assert (delta.delta.stop_reason, delta.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    with claude.messages.stream(model=MODEL, messages=ASKED, max_tokens=40, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text == whole.content[0].text  # type: ignore[union-attr]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_every_event_is_named_and_a_ping_follows_the_start_of_the_first_block(gateway_url: str, api_key: str) -> None:
    body = {"model": MODEL, "messages": ASKED, "max_tokens": 1, "stream": True} | GREEDY
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/messages", json=body, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"})
    names = [part.split("\n")[0] for part in response.text.removesuffix("\n\n").split("\n\n")]
    events = "message_start content_block_start ping content_block_delta content_block_stop message_delta message_stop"
    assert names == [f"event: {event}" for event in events.split()]
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_stop_reason_is_the_same_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"max_tokens": 2}, "max_tokens", None),
        ({"stop_sequences": ["nothing like it", " of Japan"]}, "stop_sequence", " of Japan"),
        ({"stop_sequences": ["<|im_end|>"]}, "stop_sequence", "<|im_end|>"),
        ({"extra_body": {"ignore_eos": True}, "max_tokens": 30}, "max_tokens", None),
    ]
    for parameters, reason, sequence in cases:
        whole = ask(claude, **parameters)
        assert (whole.stop_reason, whole.stop_sequence) == (reason, sequence), parameters
        delta = next(event for event in ask(claude, stream=True, **parameters) if event.type == "message_delta")
        assert (delta.delta.stop_reason, delta.delta.stop_sequence) == (reason, sequence), parameters


def test_system_and_blocks_are_part_of_the_prompt_and_what_changes_nothing_is_accepted(claude: anthropic.Anthropic) -> None:
    def count(messages: list[Any], **parameters: Any) -> int:
        return claude.messages.count_tokens(model=MODEL, messages=messages, **parameters).input_tokens

    block = {"type": "text", "text": "What is the capital of Japan?", "cache_control": {"type": "ephemeral"}}
    assert count([{"role": "user", "content": [block]}]) == count(ASKED)
    system: list[Any] = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert count(ASKED, system=system) == count(ASKED, system="Be brief.\nBe kind.") != count(ASKED)
    turns = [{"role": "user", "content": "What is the capital"}, {"role": "user", "content": "of Japan?"}]
    assert count(turns) == count([{"role": "user", "content": "What is the capital\nof Japan?"}])
    plain = ask(claude, system="Be brief.").content
    changing_nothing: dict[str, Any] = {
        "metadata": {"user_id": "alice"}, "service_tier": "auto", "thinking": {"type": "disabled"},
        "cache_control": {"type": "ephemeral"}, "extra_headers": {"anthropic-beta": "prompt-caching-2024-07-31"},
    }  # fmt: skip
    assert ask(claude, system="Be brief.", **changing_nothing).content == plain


def test_an_answer_that_has_begun_goes_on(claude: anthropic.Anthropic) -> None:
    whole = ask(claude).content[0].text
    begun, rest = whole[: len(whole) // 2].rsplit(" ", 1)[0], ""
    rest = ask(claude, [*ASKED, {"role": "assistant", "content": begun}]).content[0].text
    assert begun + rest == whole
    with_end = ask(claude, [*ASKED, {"role": "assistant", "content": whole}])
    assert (with_end.content[0].text, with_end.usage.output_tokens) == ("", 1)


TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
}
CALLED: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}, "max_tokens": 100}
WEATHER = [{"role": "user", "content": "What is the weather in Tokyo?"}]


def test_a_tool_that_must_be_called_gets_an_input_of_its_schema_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    for extra in (GREEDY, {"temperature": 1, "top_p": 1, "top_k": 0, "seed": 1}, {"temperature": 1, "top_k": 0, "seed": 2}):
        whole = ask(claude, WEATHER, extra_body=extra, **CALLED)
        (block,) = whole.content
        assert (whole.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "get_weather") and block.id
        jsonschema.validate(block.input, TOOL["input_schema"])
        with claude.messages.stream(model=MODEL, messages=WEATHER, extra_body=extra, **CALLED) as stream:
            events = [event for event in stream if event.type.startswith(("content_block", "message_"))]
            final = stream.get_final_message()
        (streamed,) = final.content
        assert (streamed.type, streamed.input, final.stop_reason) == ("tool_use", block.input, "tool_use")  # type: ignore[union-attr]
        kinds = [event.type for event in events if event.type != "content_block_delta"]
        assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]


def test_the_result_of_a_tool_goes_into_the_next_prompt(claude: anthropic.Anthropic) -> None:
    message = ask(claude, WEATHER, **CALLED)
    result = {
        "type": "tool_result",
        "tool_use_id": message.content[0].id,
        "content": [{"type": "text", "text": "Sunny, 20 degrees"}],
    }
    turns: list[Any] = [*WEATHER, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = ask(claude, turns, tools=[TOOL], tool_choice={"type": "none"})
    assert answer.content[0].type == "text" and answer.stop_reason in ("end_turn", "max_tokens")

    def count(messages: list[Any], **parameters: Any) -> int:
        return claude.messages.count_tokens(model=MODEL, messages=messages, **parameters).input_tokens

    assert count(WEATHER) < count(WEATHER, tools=[TOOL]) < count(turns, tools=[TOOL])


def test_tools_that_may_be_called_leave_an_answer_its_text(claude: anthropic.Anthropic) -> None:
    answer = ask(claude, [{"role": "user", "content": "Say hello."}], tools=[TOOL], max_tokens=60)
    assert {block.type for block in answer.content} <= {"text", "tool_use"} and answer.content
    events = list(ask(claude, [{"role": "user", "content": "Say hello."}], tools=[TOOL], max_tokens=60, stream=True))
    begun = [event.content_block.type for event in events if event.type == "content_block_start"]
    assert begun == [block.type for block in answer.content]
    text = "".join(
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    assert text == "".join(block.text for block in answer.content if block.type == "text")


def test_what_is_wrong_is_an_exception_of_the_client(claude: anthropic.Anthropic) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    for parameters, message in (
        ({"temperature": 1.1}, "temperature is 1.1; it must be a number from 0.0 to 1.0"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be an integer from 1 to"),
        ({"messages": [{"role": "user", "content": [image]}]}, 'messages[0].content[0].type is "image"'),
        ({"messages": [{"role": "system", "content": "a"}]}, "a system message goes in system"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"stop_sequences": [""]}, "stop_sequences[0] is"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name is"),
        ({"user": "alice"}, "user is not supported here"),
        ({"messages": [{"role": "user", "content": "hello " * 3000}]}, "this model's context holds 2048"),
    ):
        for stream in (False, True):
            with pytest.raises(anthropic.BadRequestError) as refused:
                ask(claude, stream=stream, extra_body=parameters)
            assert message in str(refused.value.body), refused.value.body
            assert refused.value.type == "invalid_request_error" and refused.value.request_id
            assert refused.value.body["request_id"] == refused.value.request_id  # type: ignore[index]
    with pytest.raises(anthropic.AuthenticationError) as wrong:
        ask(claude.with_options(api_key="wrong"))
    assert wrong.value.type == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="no-such-model", max_tokens=1, messages=ASKED)
    assert missing.value.type == "not_found_error"


def test_models_are_listed_in_a_form_that_the_client_reads(claude: anthropic.Anthropic) -> None:
    first, *_ = claude.models.list()
    model = claude.models.retrieve(MODEL)
    assert (model.type, model.display_name) == ("model", model.id) and model.created_at.year >= 2020
    assert first.type == "model" and model.id in {one.id for one in claude.models.list()}


def test_a_stream_that_breaks_ends_with_an_error_that_the_client_raises(
    start_triton: Callable[..., Triton], tmp_path: Path, api_key: str
) -> None:
    with (
        start_triton(DEMO, slots=2) as triton,
        gateway_process(triton.grpc_address, tmp_path / "log", RECOVERY_TIMEOUT="1") as address,
        claude_for(address, api_key) as claude,
    ):
        events = iter(ask(claude, stream=True, max_tokens=1500, extra_body={"ignore_eos": True}))
        assert [next(events).type for _ in range(3)][-1] == "content_block_delta"
        triton.stop()
        with pytest.raises(anthropic.APIStatusError) as broken:
            list(events)
        assert broken.value.type == "overloaded_error" and "does not answer" in str(broken.value.body)
        with pytest.raises(anthropic.InternalServerError) as down:
            ask(claude)
        assert (down.value.status_code, down.value.type) == (503, "overloaded_error")
        assert down.value.response.headers["retry-after"]


def test_a_used_up_limit_is_a_rate_limit_error(tmp_path: Path, triton: Triton) -> None:
    command = [sys.executable, "-m", "gateway.keys", "create", "alice", "--file", str(tmp_path / "keys.json")]
    made = subprocess.run([*command, "--requests-per-minute", "1"], cwd=ROOT, capture_output=True, text=True, check=True)
    with (
        gateway_process(triton.grpc_address, tmp_path / "log", API_KEYS_FILE=str(tmp_path / "keys.json")) as address,
        claude_for(address, made.stdout.strip()) as claude,
    ):
        ask(claude, max_tokens=1)
        with pytest.raises(anthropic.RateLimitError) as refused:
            ask(claude, max_tokens=1)
    assert refused.value.type == "rate_limit_error" and int(refused.value.response.headers["retry-after"]) > 1
