"""Asking, stopping, editing, choosing among answers."""

import json
import re
from collections.abc import Callable

import httpx
import pytest

from tests.conftest import DEMO, TINY
from tests.gateway.http_client import load, until
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]


def test_a_message_is_answered_and_the_next_one_comes_with_what_was_said(visit: Visit, gateway_url: str) -> None:
    visitor = visit(gateway_url)
    visitor.set(max_tokens=8)
    first = visitor.send("Hello, world!")
    assert first["model"] == DEMO and first["messages"] == [{"role": "user", "content": "Hello, world!"}]
    [answer] = visitor.answers()
    assert answer and visitor.page.input_value("#prompt") == ""
    visitor.page.fill("#system", "You speak like a pirate.")
    second = visitor.send("And?")
    assert second["messages"] == [
        {"role": "system", "content": "You speak like a pirate."},
        {"role": "user", "content": "Hello, world!"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And?"},
    ]
    assert len(visitor.answers()) == 2
    visitor.click("New")
    assert visitor.answers() == [] and visitor.page.locator(".welcome").is_visible()


def test_a_text_goes_on_behind_its_beginning(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=12)
    assert visitor.send("Once upon a time")["prompt"] == "Once upon a time"
    [answer] = visitor.answers()
    written = re.sub("\r\n?", "\n", answer)  # a text area has no other line break
    assert answer and visitor.box().input_value() == "Once upon a time" + written


def test_a_model_without_a_chat_template_can_still_be_asked_in_a_chat(visit: Visit) -> None:
    visitor = visit()
    visitor.mode("chat")
    visitor.set(max_tokens=4)
    assert visitor.send("Hello")["messages"] == [{"role": "user", "content": "Hello"}]
    assert visitor.answers() != [""]


def test_the_answer_appears_while_it_is_written(visit: Visit, gateway_url: str) -> None:
    visitor = visit(gateway_url)  # a model that takes its time
    visitor.set(max_tokens=900, ignore_eos=True)
    visitor.begin("The king")
    visitor.writing()
    lengths = [len(visitor.answers()[0])]
    assert any(lengths.append(len(visitor.answers()[0])) or len(set(lengths)) >= 3 for _ in until(20))
    visitor.click("Stop")


def test_stop_frees_the_slot_and_keeps_what_came(visit: Visit, tiny_gateway_url: str) -> None:
    visitor = visit()
    visitor.set(max_tokens=1000, ignore_eos=True)
    visitor.begin("The king")
    visitor.writing()
    assert load(tiny_gateway_url)[0] == 1
    visitor.click("Stop")
    assert any(load(tiny_gateway_url) == (0, 0) for _ in until(20))
    visitor.finished()
    assert visitor.answers()[0] and visitor.page.inner_text(".why") == "Stopped."


def test_an_answer_that_was_cut_goes_on_where_it_ended(visit: Visit) -> None:
    visitor = visit()
    visitor.mode("chat")
    visitor.set(max_tokens=6, ignore_eos=True, seed=1)
    visitor.send("The king")
    [before] = visitor.answers()
    assert visitor.page.inner_text(".ending .why") == "Reached the 6-token limit."
    visitor.click("Continue")
    assert any(len(visitor.answers()[0]) > len(before) for _ in until(10))
    visitor.finished()
    assert visitor.answers()[0].startswith(before)


@pytest.mark.slow
def test_an_answer_of_no_given_length_fills_the_context_and_says_so(visit: Visit) -> None:
    visitor = visit()
    visitor.set(ignore_eos=True)
    modes = (("chat", None, ".ending"), ("complete", 1024, ".why"))  # without one, /v1/completions writes 16 tokens
    for mode, wanted, ended in modes:
        visitor.mode(mode)
        assert visitor.send("Hello").get("max_tokens") == wanted
        assert len(visitor.answers()[0]) > 1024
        assert visitor.page.inner_text(ended) == "The context is full."  # and no way to continue


def test_a_message_can_be_edited_and_what_came_after_it_is_gone(visit: Visit) -> None:
    visitor = visit()
    visitor.mode("chat")
    visitor.set(max_tokens=3)
    visitor.send("One")
    visitor.send("Two")
    visitor.page.get_by_role("button", name="Edit").first.click()
    visitor.page.get_by_label("Change the text").fill("Three")
    with visitor.page.expect_request("**/v1/chat/completions") as sent:
        visitor.page.keyboard.press("Control+Enter")
    visitor.finished()
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "Three"}]
    assert visitor.page.locator(".asked .message").all_inner_texts() == ["Three"]
    assert visitor.page.locator(".versions").count() == 0  # the answer to "One" does not count as one to "Three"
    visitor.page.get_by_role("button", name="Edit").click()
    visitor.click("Cancel")
    assert visitor.page.locator(".asked .message").all_inner_texts() == ["Three"]


def test_a_new_answer_leaves_the_old_one_within_reach(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=8, ignore_eos=True)
    visitor.send("The king")
    [old] = visitor.answers()
    visitor.click("Regenerate")
    visitor.page.get_by_text("2/2").wait_for()
    visitor.finished()
    [new] = visitor.answers()
    assert new != old
    visitor.click("Previous answer")
    assert visitor.answers() == [old]
    visitor.click("Next answer")
    assert visitor.answers() == [new]


def test_several_answers_stand_side_by_side_and_one_is_chosen(visit: Visit) -> None:
    visitor = visit(viewport={"width": 1400, "height": 900})
    visitor.mode("chat")
    visitor.set(max_tokens=8, n=3, ignore_eos=True)
    assert visitor.send("Hello")["n"] == 3
    answers = visitor.answers()
    assert len(set(answers)) == 3
    for part in (".sample", ".sample .ending"):  # the columns begin and end at the same height, however long their texts are
        boxes = [one.bounding_box() for one in visitor.page.locator(part).all()]
        assert len({box["y"] for box in boxes}) == 1, part
    visitor.click("Pick")
    assert visitor.send("And?")["messages"][1]["content"] == answers[2]


def test_an_answer_is_copied(visit: Visit) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    visitor.mode("chat")
    visitor.set(max_tokens=8)
    visitor.send("Hello")
    visitor.page.locator(".answers").get_by_role("button", name="Copy").click()
    visitor.page.get_by_text("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == visitor.answers()[0]


def test_a_click_on_an_example_sends_it(visit: Visit, gateway_url: str) -> None:
    visitor = visit(gateway_url)
    visitor.set(max_tokens=4)
    with visitor.page.expect_request("**/v1/chat/completions") as sent:
        visitor.click("Write a short poem about the sea.")
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "Write a short poem about the sea."}]
    visitor.answered()
    assert visitor.page.input_value("#prompt") == ""


def test_the_chosen_model_answers_and_is_remembered(visit: Visit, gateway_url: str) -> None:
    visitor = visit(gateway_url)
    assert visitor.page.input_value("#model") == DEMO  # the server's default
    visitor.page.select_option("#model", TINY)
    assert int(visitor.parameter("max_tokens").get_attribute("max")) == 1024  # its context
    visitor.set(max_tokens=2)
    assert visitor.send("Hello")["model"] == TINY
    visitor.arrive()
    assert visitor.page.input_value("#model") == TINY


def test_a_line_beneath_each_answer_has_its_speed_first_token_tokens_and_cache(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=60, ignore_eos=True)
    prompt = "The king of the hill has gone to see the sea and came back with a fish. " * 3  # short ones are not cached
    lines = []
    for _ in range(2):
        visitor.send(prompt)
        lines.append(visitor.page.locator(".figures").inner_text())
    form = r"[\d.,]+ tokens/s · first token [\d.]+ m?s · (\d+) in, 60 out( · (\d+)% cached)?"
    told = [re.fullmatch(form, line) for line in lines]
    assert told[0] and told[1], lines
    assert told[0][1] == told[1][1] and int(told[0][1]) > 50
    assert 50 < float(told[1][3]) <= 100  # the same prompt again


def test_an_export_has_every_word_and_every_token(visit: Visit, tmp_path_factory: object) -> None:
    visitor = visit()
    visitor.mode("chat")
    visitor.click("Export")
    visitor.click("JSON")
    assert "nothing to export" in visitor.notice().inner_text()
    visitor.set(max_tokens=5, ignore_eos=True)
    visitor.send("Hello")
    visitor.click("Export")
    with visitor.page.expect_download() as written:
        visitor.click("Markdown")
    markdown = written.value.path().read_text()
    assert written.value.suggested_filename.endswith(".md")
    assert "Hello" in markdown and visitor.answers()[0] in markdown and TINY in markdown
    visitor.click("Export")
    with visitor.page.expect_download() as written:
        visitor.click("JSON")
    told = json.loads(written.value.path().read_text())
    [sample] = told["conversations"][0]["exchanges"][0]["versions"][0]["samples"]
    assert sample["text"] == visitor.answers()[0] and sample["finish"] == "length"
    tokens = [token for segment in sample["segments"] for token in segment["tokens"]]
    assert 1 <= len(tokens) <= 5 and {"bytes", "logprob", "top"} == tokens[0].keys()


def test_what_a_model_writes_is_shown_as_text_and_never_run(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=2)
    visitor.send("<img src=x onerror=alert(1)><script>alert(2)</script>")
    assert visitor.page.inner_text(".marks").startswith("<img src=x onerror=alert(1)>")
    assert visitor.page.locator("#conversation img, #conversation script").count() == 0


def test_the_page_and_its_files_come_with_a_strict_policy(tiny_gateway_url: str) -> None:
    for path in ("/", "/static/js/main.js"):
        policy = httpx.get(tiny_gateway_url + path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
