"""POST /v1/responses: the whole object, the whole sequence of events, and OpenAI's own client on both."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from serve.triton_server import TritonServer
from tests.conftest import TINY, gateway_process
from tests.gateway.http_client import client, named_events

BODY = {"model": "latest_checkpoint.pt", "input": "Say hello.", "max_output_tokens": 5, "temperature": 0}
EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
]


@pytest.fixture
def sdk(gateway_url: str, api_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway_url}/v1", api_key=api_key, max_retries=0, timeout=60) as opened:
        yield opened


def post(url: str, key: str, **fields: Any) -> Any:
    with client(url, key) as http:
        response = http.post("/v1/responses", json=BODY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_clients_that_always_include_encrypted_reasoning_get_the_same_answer(gateway_url: str, api_key: str) -> None:
    answers = [post(gateway_url, api_key, include=include) for include in ([], ["reasoning.encrypted_content"])]
    assert answers[0]["output"][0]["content"] == answers[1]["output"][0]["content"]


def test_an_answer_has_the_form_of_openai(gateway_url: str, api_key: str) -> None:
    before = int(time.time())
    answer = post(gateway_url, api_key, instructions="Be kind.", metadata={"a": "b"}, store=True)
    assert re.fullmatch("resp_[0-9a-f]{24}", answer["id"]) and answer["object"] == "response"
    assert before <= answer["created_at"] <= time.time() and answer["error"] is None
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["completed_at"] is None
    (message,) = answer["output"]
    (part,) = message.pop("content")
    assert re.fullmatch("msg_[0-9a-f]{24}", message.pop("id"))
    assert message == {"type": "message", "role": "assistant", "status": "incomplete"}
    assert part == {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []} and part["text"]
    usage = answer["usage"]
    assert usage["output_tokens"] == 5 and usage["total_tokens"] == usage["input_tokens"] + 5
    assert usage["input_tokens_details"].keys() == {"cached_tokens", "cache_write_tokens"}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    echoed = {"instructions": "Be kind.", "metadata": {"a": "b"}, "temperature": 0, "max_output_tokens": 5}
    echoed |= {"tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}}, "previous_response_id": None}
    assert answer | echoed == answer
    assert answer["store"] is False  # nothing is


def test_a_text_that_ended_by_itself_is_completed(gateway_url: str, api_key: str) -> None:
    form = {"format": {"type": "regex", "regex": "yes"}}
    answer = post(gateway_url, api_key, text=form, max_output_tokens=20)
    assert (answer["status"], answer["incomplete_details"]) == ("completed", None)
    assert answer["output"][0]["status"] == "completed" and answer["output"][0]["content"][0]["text"] == "yes"
    assert answer["completed_at"] >= answer["created_at"] and answer["text"] == form
    with client(gateway_url, api_key) as http:
        *_, last = named_events(http.post("/v1/responses", json=BODY | {"text": form, "stream": True, "max_output_tokens": 20}))
    assert last["type"] == "response.completed" and last["response"]["status"] == "completed"


def test_the_input_is_the_conversation_of_chat(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
        chat = {"model": BODY["model"], "messages": messages, "max_tokens": 5, "temperature": 0}
        expected = http.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    for fields in (
        {"instructions": "Be brief."},
        {"input": messages},
        {"input": [{"type": "message", **message} for message in messages]},
        {"input": [{"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}, messages[1]]},
    ):
        assert post(gateway_url, api_key, **fields)["output"][0]["content"][0]["text"] == expected


def test_the_events_come_in_openais_order_and_tell_the_same_as_the_whole(gateway_url: str, api_key: str) -> None:
    body = BODY | {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "stream": True}
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/responses", json=body)
    whole = post(gateway_url, api_key, **(body | {"stream": False}))
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    told = named_events(response)
    assert list(dict.fromkeys(event["type"] for event in told)) == EVENTS
    created, in_progress, item_added, part_added, *deltas, text_done, part_done, item_done, last = told
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"], created["response"]["usage"]) == (
        "in_progress",
        [],
        None,
    )
    item_id = item_added["item"]["id"]
    assert item_added == {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []},
    }
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert part_added == {"type": "response.content_part.added", **place, "part": part}
    (message,) = whole["output"]
    (content,) = message["content"]
    for delta in deltas:
        assert delta == {"type": "response.output_text.delta", **place, "delta": delta["delta"], "logprobs": delta["logprobs"]}
    assert "".join(delta["delta"] for delta in deltas) == content["text"]
    assert [token for delta in deltas for token in delta["logprobs"]] == content["logprobs"]
    assert len(content["logprobs"]) == 5 and all(len(token["top_logprobs"]) == 2 for token in content["logprobs"])
    done = {"text": content["text"], "logprobs": content["logprobs"]}
    assert text_done == {"type": "response.output_text.done", **place, **done}
    assert part_done == {"type": "response.content_part.done", **place, "part": content}
    assert item_done == {"type": "response.output_item.done", "output_index": 0, "item": message | {"id": item_id}}
    own = {"id": last["response"]["id"], "created_at": last["response"]["created_at"], "usage": last["response"]["usage"]}
    assert last["response"] == whole | own | {"output": [message | {"id": item_id}]}


def test_the_openai_client_reads_the_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(**BODY, top_logprobs=1)
    assert answer.output_text and answer.usage and answer.usage.output_tokens == 5
    assert type(answer).model_validate(answer.to_dict()).output_text == answer.output_text  # every required field is there
    again = sdk.responses.create(**(BODY | {"input": [*answer.output, {"role": "user", "content": "And?"}]}))
    assert again.output_text


def test_the_openai_client_streams(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(**BODY) as stream:
        told = list(stream)
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta")
    assert told[-1].type == "response.incomplete"


def test_a_json_schema_is_kept(sdk: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "person", "schema": schema, "strict": True}
    answer = sdk.responses.create(**(BODY | {"max_output_tokens": 60, "temperature": 2}), text={"format": form})
    assert json.loads(answer.output_text).keys() == {"age"}
    assert answer.to_dict()["text"] == {"format": form}


@pytest.mark.parametrize("name", ["previous_response_id", "background", "conversation", "reasoning", "prompt"])
def test_what_is_not_done_here_is_refused_by_name(gateway_url: str, api_key: str, name: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/responses", json=BODY | {name: {"id": "x"}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_an_offer_to_hide_the_lengths_of_pieces_changes_nothing(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        for hidden in (True, False, None):
            options = {"stream": True, "stream_options": {"include_obfuscation": hidden}}
            assert http.post("/v1/responses", json=BODY | options).status_code == 200
        refused = http.post("/v1/responses", json=BODY | {"stream": True, "stream_options": {"include_usage": True}})
    assert refused.json()["error"]["param"] == "stream_options.include_usage"


def test_a_wrong_format_is_named_by_the_path_that_it_has_here(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/responses", json=BODY | {"text": {"format": {"type": "regex", "regex": "(a"}}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "text.format")
    assert response.json()["error"]["message"].startswith("text.format")


def test_a_stream_that_breaks_ends_with_a_response_that_failed(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], tmp_path: Path, api_key: str
) -> None:
    with (
        start_triton(TINY, slots=2) as triton,
        gateway_process(triton.grpc_address, tmp_path / "log", RECOVERY_TIMEOUT="1") as url,
        client(url, api_key) as http,
    ):
        body = BODY | {"max_output_tokens": 1000, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/responses", json=body) as response:
            assert response.status_code == 200
            triton.stop()
            response.read()
    created, *_, last = named_events(response)
    assert last["type"] == "response.failed"
    error = {"code": "server_error", "message": "The model server does not answer. Please try again."}
    assert last["response"] == created["response"] | {"status": "failed", "error": error}


def test_a_response_cannot_be_got_again(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        assert http.get("/v1/responses/resp_1").status_code == 404
        assert http.get("/v1/responses").status_code == 405
