"""What goes wrong only at the wrong moment: answers that come late, break off, or meet a page that has moved on."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.gateway.http_client import until
from tests.page.scripted import ScriptedVisitor, hold, model, refuse, stream


@pytest.fixture
def visitor(browser: Any) -> Iterator[ScriptedVisitor]:
    context = browser.new_context(locale="en-US", viewport={"width": 1300, "height": 700})
    visitor = ScriptedVisitor(context.new_page())
    visitor.arrive()
    yield visitor
    context.close()
    assert visitor.problems == []


def happens(condition: Callable[[], Any], visitor: ScriptedVisitor, seconds: float = 10) -> bool:
    for _ in until(seconds):
        if condition():
            return True
        visitor.page.wait_for_timeout(20)  # lets the routes be answered
    return False


def layouts(chromium: Any) -> int:
    """How often the page was laid out. Counted, not timed: the machine may be busy."""
    metrics = chromium.send("Performance.getMetrics")["metrics"]
    return next(int(metric["value"]) for metric in metrics if metric["name"] == "LayoutCount")


def test_an_end_token_as_the_alternative_ends_the_answer_and_asks_for_nothing(visitor: ScriptedVisitor) -> None:
    visitor.page.check("#probabilities")
    visitor.server.answers = [stream(["One", " two", " three"])]
    visitor.send("Count")
    visitor.page.locator(".token").nth(1).hover()
    visitor.page.locator("#alternatives .alternative").get_by_text("</s>").click()
    visitor.page.get_by_text("2/2").wait_for()
    visitor.finished()
    assert visitor.answers() == ["One"] and visitor.page.locator(".ending .why").count() == 0
    assert len(visitor.server.bodies) == 1 and visitor.notice().is_hidden()


@pytest.mark.parametrize("headers", [{"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}])
def test_a_server_that_names_no_time_is_not_asked_again_and_again_at_once(
    visitor: ScriptedVisitor, headers: dict[str, str]
) -> None:
    visitor.server.answers = [refuse(429, headers=headers)]
    visitor.begin("Hello")
    visitor.page.wait_for_timeout(600)
    assert 1 <= len(visitor.server.bodies) <= 2
    visitor.click("Stop")
    visitor.finished()


def test_stop_ends_the_waiting_for_a_server_that_takes_a_connection_and_says_nothing(visitor: ScriptedVisitor) -> None:
    asked: list[Any] = []
    visitor.server.others["/health"] = hold(asked)
    visitor.server.answers = [refuse(503, headers={"Retry-After": "1"})]
    visitor.begin("Hello")
    assert happens(lambda: asked, visitor)
    visitor.click("Stop")
    visitor.page.locator("#stop").wait_for(state="hidden", timeout=5000)  # the page would wait for ten


def test_an_answer_of_a_given_form_keeps_its_form_where_it_begins_again(visitor: ScriptedVisitor) -> None:
    visitor.set(n=2, max_tokens=50)
    visitor.parameter("response_format").select_option("json_object")
    visitor.server.answers = [stream(["{", "}"], finish="stop", whole=False), stream(["{", "}"], finish="stop")]
    visitor.send("Two objects")
    assert happens(lambda: visitor.answers() == ["{}", "{}"], visitor)
    again = visitor.server.bodies[1]
    assert again["response_format"] == {"type": "json_object"} and again["max_tokens"] == 50


def test_a_model_that_is_gone_in_mid_answer_is_replaced_by_the_one_that_is_chosen(visitor: ScriptedVisitor) -> None:
    visitor.server.answers = [stream(["The ", "king "], finish=None, whole=False), refuse(404), stream(["rules."])]
    visitor.server.models = [model("plain", False), model("other", True)]
    visitor.begin("The king")
    visitor.notice().get_by_text("no longer has this model").wait_for()
    assert visitor.page.is_checked("input[value=chat]") and visitor.answers() == ["The king "]  # it is still to be seen
    visitor.page.select_option("#model", "other")
    visitor.click("Try again")
    assert happens(lambda: visitor.answers() == ["The king rules."], visitor)
    assert [body["model"] for body in visitor.server.bodies] == ["chatty", "chatty", "other"]


def test_trying_again_replaces_the_answer_that_failed_and_no_other(visitor: ScriptedVisitor) -> None:
    visitor.server.answers = [stream(["First"]), refuse(500), stream(["Second"])]
    visitor.send("Hello")
    visitor.click("Regenerate")
    visitor.notice().get_by_text("Server error").wait_for()
    assert visitor.answers() == ["First"] and visitor.page.locator(".versions").count() == 0  # what failed leaves nothing
    visitor.click("Try again")
    assert happens(lambda: visitor.answers() == ["Second"], visitor)
    visitor.click("Previous answer")
    assert visitor.answers() == ["First"]


def test_a_question_without_an_answer_is_no_bubble_and_can_be_asked_again(visitor: ScriptedVisitor) -> None:
    visitor.server.answers = [refuse(500), hold([]), stream(["Hello"])]
    visitor.send("Hi")
    assert visitor.page.locator(".sample").count() == 0
    ask_again = visitor.page.locator(".asked").get_by_role("button", name="Try again")
    ask_again.click()
    visitor.click("Stop")  # before anything was written
    visitor.finished()
    assert visitor.page.locator(".sample").count() == 0
    ask_again.click()
    assert happens(lambda: visitor.answers() == ["Hello"], visitor)
    assert visitor.page.locator(".versions").count() == 0 and ask_again.count() == 0


def test_another_model_in_the_middle_of_a_chat_leaves_the_chat_in_view(visitor: ScriptedVisitor) -> None:
    visitor.send("Hello")
    visitor.page.select_option("#model", "plain")
    assert visitor.page.is_checked("input[value=chat]") and visitor.answers() == ["Hello"]
    visitor.click("New")
    visitor.page.select_option("#model", "chatty")
    visitor.page.select_option("#model", "plain")
    assert visitor.page.is_checked("input[value=complete]")


def test_a_message_that_is_sent_before_the_server_has_described_itself_stays_in_the_box(visitor: ScriptedVisitor) -> None:
    asked: list[Any] = []
    visitor.server.others["/openapi.json"] = hold(asked)
    visitor.arrive(connected=False)
    assert happens(lambda: asked, visitor)
    visitor.begin("Hello")
    assert visitor.page.is_disabled("#send") and visitor.page.is_disabled("#code")
    assert visitor.page.input_value("#prompt") == "Hello"
    visitor.server.others.clear()
    visitor.server._answer(asked[0])
    visitor.page.locator("#send:enabled").click()
    assert happens(lambda: visitor.answers() == ["Hello"], visitor)


def test_the_refusal_of_an_old_key_that_comes_late_says_nothing_of_the_new_one(visitor: ScriptedVisitor) -> None:
    asked: list[Any] = []
    visitor.server.others["/v1/models"] = hold(asked)
    visitor.page.fill("#key", "wrong")
    visitor.page.locator("#key").blur()
    assert happens(lambda: asked, visitor)
    del visitor.server.others["/v1/models"]
    visitor.page.fill("#key", "right")
    with visitor.page.expect_response("**/v1/models"):
        visitor.page.locator("#key").blur()
    visitor.page.wait_for_timeout(200)
    with suppress(Exception):  # the page may have given it up already
        refuse(401)(asked[0])
    visitor.page.wait_for_timeout(300)
    assert visitor.notice().is_hidden()


def test_who_reads_further_up_stays_there_when_the_answer_ends(visitor: ScriptedVisitor) -> None:
    asked: list[Any] = []
    visitor.server.answers = [stream(["line\n"] * 100)]
    visitor.send("Many lines")
    view = visitor.page.locator("#conversation")
    assert view.evaluate("node => node.scrollTop") > 1000
    visitor.server.answers = [hold(asked)]
    visitor.begin("More")
    assert happens(lambda: asked, visitor)
    view.evaluate("node => { node.scrollTop = 500; }")
    stream(["line\n"] * 100)(asked[0])
    visitor.finished()
    assert len(visitor.answers()[1]) == 500 and view.evaluate("node => node.scrollTop") == 500
    visitor.page.check("#probabilities")
    assert abs(view.evaluate("node => node.scrollTop") - 500) < 20


@pytest.mark.slow
def test_a_long_answer_with_probabilities_is_not_drawn_once_for_each_token(visitor: ScriptedVisitor) -> None:
    visitor.page.check("#probabilities")
    visitor.server.answers = [stream([f" {number}" for number in range(2000)])]
    chromium = visitor.page.context.new_cdp_session(visitor.page)
    chromium.send("Performance.enable")
    before = layouts(chromium)
    visitor.send("Count")
    assert visitor.page.locator(".token").count() == 2000
    assert layouts(chromium) - before < 500  # of which most are the test's own looks at the page


def test_the_keyboard_stays_where_it_was_when_another_answer_is_shown(visitor: ScriptedVisitor) -> None:
    visitor.send("Hello")
    visitor.click("Regenerate")
    visitor.page.get_by_text("2/2").wait_for()
    visitor.finished()
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    visitor.page.get_by_role("button", name="Previous answer").press("Enter")
    visitor.page.get_by_text("1/2").wait_for()
    assert visitor.page.evaluate(focused) == "Next answer"  # there is no earlier one
    visitor.page.get_by_role("button", name="Edit").press("Enter")
    visitor.page.keyboard.press("Escape")
    assert visitor.page.evaluate(focused) == "Edit"


def test_the_code_can_be_looked_at_while_an_answer_is_written(visitor: ScriptedVisitor) -> None:
    asked: list[Any] = []
    visitor.server.answers = [hold(asked)]
    visitor.begin("Hello")
    assert happens(lambda: asked, visitor)
    visitor.click("As code")
    assert visitor.page.locator("#snippet").is_visible()


def test_on_a_phone_what_is_wrong_can_be_read_over_the_settings(visitor: ScriptedVisitor) -> None:
    visitor.page.set_viewport_size({"width": 360, "height": 740})
    visitor.server.answers = [refuse(401), stream(["Hello"])]
    visitor.begin("Hello")
    button = visitor.notice().get_by_role("button", name="Try again")
    button.wait_for()
    assert visitor.page.locator("#panel").is_visible() and visitor.page.locator("#composer").is_hidden()
    button.click()  # nothing lies above it
    visitor.finished()
    assert visitor.page.locator("#panel").is_hidden() and visitor.answers() == ["Hello"]


def test_what_the_browser_puts_back_into_the_system_message_is_sent(visitor: ScriptedVisitor) -> None:
    visitor.page.add_init_script(
        "addEventListener('readystatechange', () => { if (document.readyState === 'interactive')"
        " document.getElementById('system').value = 'Be brief.'; }, {capture: true})"
    )
    visitor.arrive()
    visitor.send("Hello")
    assert visitor.server.bodies[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
