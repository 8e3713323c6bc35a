"""What Enter does in the box: it sends, but for a line break, an input method and where Ctrl+Enter is chosen."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]


@pytest.fixture
def visitor(visit: Visit) -> Visitor:
    visitor = visit()
    visitor.mode("chat")
    visitor.set(max_tokens=3)
    return visitor


def asked(visitor: Visitor) -> Any:
    return visitor.page.locator(".asked .message").all_text_contents()


def test_enter_sends_and_shift_enter_breaks_the_line(visitor: Visitor) -> None:
    visitor.page.locator("#prompt").press_sequentially("One")
    visitor.page.keyboard.press("Shift+Enter")
    visitor.page.keyboard.type("two")
    assert visitor.page.input_value("#prompt") == "One\ntwo" and visitor.sends() == 0
    visitor.page.keyboard.press("Enter")
    visitor.answered()
    assert asked(visitor) == ["One\ntwo"] and visitor.page.input_value("#prompt") == ""


def test_the_enter_that_takes_an_input_methods_word_does_not_send(visitor: Visitor) -> None:
    page = visitor.page
    input_method = page.context.new_cdp_session(page)
    page.locator("#prompt").focus()
    input_method.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    page.keyboard.press("Enter")
    assert visitor.sends() == 0
    input_method.send("Input.insertText", {"text": "你好"})
    # Safari ends the composition before the key arrives: only its code tells.
    key = "new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true})"
    assert page.evaluate(f"document.getElementById('prompt').dispatchEvent({key})") and visitor.sends() == 0
    assert "你好" in page.input_value("#prompt")
    page.fill("#prompt", "你好")
    page.keyboard.press("Enter")
    visitor.answered()
    assert asked(visitor) == ["你好"]


def test_ctrl_enter_can_be_chosen_instead(visitor: Visitor) -> None:
    page = visitor.page
    page.select_option("#send-key", "ctrl")
    visitor.arrive()
    visitor.mode("chat")
    assert page.input_value("#send-key") == "ctrl" and "Ctrl" in page.inner_text("#send")
    page.locator("#prompt").press_sequentially("One")
    page.keyboard.press("Enter")
    assert page.input_value("#prompt") == "One\n" and visitor.sends() == 0
    page.keyboard.press("Control+Enter")
    visitor.answered()
    assert asked(visitor) == ["One\n"]
