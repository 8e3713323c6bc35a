"""Complete: one document that people and the model write together."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.http_client import until
from tests.page.scripted import ScriptedVisitor, refuse, stream


@pytest.fixture
def visitor(browser: Any) -> Iterator[ScriptedVisitor]:
    context = browser.new_context(locale="en-US")
    visitor = ScriptedVisitor(context.new_page())
    visitor.server.models.reverse()  # the one without a chat template is the default
    visitor.arrive()
    yield visitor
    context.close()
    assert visitor.problems == []


def generate(visitor: ScriptedVisitor, *answer: str, button: str = "Generate") -> str:
    """The prompt that was sent."""
    visitor.server.answers = [stream(list(answer))]
    with visitor.page.expect_request(re.compile("/v1/completions$")) as sent:
        visitor.page.click("#send") if button == "Generate" else visitor.click(button)
    visitor.finished()
    prompt: str = sent.value.post_data_json["prompt"]
    return prompt


def text(visitor: ScriptedVisitor) -> str:
    value: str = visitor.page.locator("#document").input_value()
    return value


def test_the_text_goes_on_in_place_from_its_end_or_the_cursor_and_can_be_edited_everywhere(visitor: ScriptedVisitor) -> None:
    page = visitor.page
    document, mark = page.locator("#document"), page.locator(".generated")
    document.fill("The sea ")
    assert generate(visitor, "is", " wide") == "The sea "
    assert text(visitor) == "The sea is wide" and mark.inner_text() == "is wide"
    document.press("Control+End")
    page.keyboard.type(", and ")  # behind it: the mark stays
    assert mark.inner_text() == "is wide"
    assert generate(visitor, "deep") == "The sea is wide, and "
    assert text(visitor) == "The sea is wide, and deep" and mark.inner_text() == "deep"
    document.press("Control+Home")
    page.keyboard.type("Oh! ")  # before it
    assert mark.inner_text() == "deep" and text(visitor) == "Oh! The sea is wide, and deep"
    assert generate(visitor, "But look. ", button="Generate at cursor") == "Oh! "
    assert text(visitor) == "Oh! But look. The sea is wide, and deep" and mark.inner_text() == "But look. "
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("..")  # within it: it is theirs now
    assert mark.inner_text() == "" and page.get_by_role("button", name="Undo").count() == 0
    assert text(visitor) == "Oh! But look... The sea is wide, and deep"
    assert page.locator(".marks").inner_text().rstrip("\u200b\n") == text(visitor)
    page.reload()
    assert text(visitor) == "Oh! But look... The sea is wide, and deep"


def test_line_breaks_of_any_kind_leave_the_generation_marked(visitor: ScriptedVisitor) -> None:
    document, mark = visitor.page.locator("#document"), visitor.page.locator(".generated")
    document.fill("A ")
    generate(visitor, "list:\r\n", "one\r", "two\n")
    assert text(visitor) == "A list:\none\ntwo\n" and mark.text_content() == "list:\none\ntwo\n"
    document.press("Control+End")
    visitor.page.keyboard.type("three")
    assert text(visitor) == "A list:\none\ntwo\nthree" and mark.text_content() == "list:\none\ntwo\n"
    assert generate(visitor, "!") == "A list:\none\ntwo\nthree"


def test_the_last_generation_is_undone_regenerated_and_chosen_among_its_variants(visitor: ScriptedVisitor) -> None:
    page = visitor.page
    page.locator("#document").fill("Once ")
    generate(visitor, "upon")
    generate(visitor, " a time")
    assert text(visitor) == "Once upon a time"
    visitor.click("Undo")
    assert text(visitor) == "Once upon" and page.locator(".generated").inner_text() == "upon"
    assert generate(visitor, "more", button="Regenerate") == "Once "
    page.get_by_text("2/2").wait_for()
    assert text(visitor) == "Once more"
    visitor.click("Previous answer")
    assert text(visitor) == "Once upon"
    page.reload()
    assert text(visitor) == "Once upon" and page.locator(".generated").inner_text() == "upon"
    visitor.click("Undo")
    assert text(visitor) == "Once "
    assert any(page.get_by_role("button", name="Undo").count() == 0 for _ in until(20))


def test_a_generation_that_failed_leaves_nothing_behind(visitor: ScriptedVisitor) -> None:
    visitor.page.locator("#document").fill("Once ")
    generate(visitor, "upon")
    visitor.server.answers = [refuse(500)]
    visitor.page.click("#send")
    visitor.notice().get_by_text("Server error").wait_for()
    assert text(visitor) == "Once upon"
    assert generate(visitor, " a time") == "Once upon" and visitor.notice().is_hidden()
    visitor.click("Undo")
    visitor.click("Undo")
    assert text(visitor) == "Once "


def test_the_last_generation_shows_its_probabilities_and_goes_on_from_another_token(visitor: ScriptedVisitor) -> None:
    page = visitor.page
    page.check("#probabilities")
    page.locator("#document").fill("A ")
    generate(visitor, "big", " house")
    assert page.locator(".token").all_inner_texts() == ["big", " house"]
    # The tokens lie exactly on the text that is typed.
    area, marks = page.locator("#document"), page.locator(".marks")
    assert area.bounding_box() == marks.bounding_box()
    assert all(
        area.evaluate(f"node => getComputedStyle(node).{name}") == marks.evaluate(f"node => getComputedStyle(node).{name}")
        for name in ("font", "padding", "whiteSpace", "overflowWrap", "wordBreak", "letterSpacing", "textIndent", "tabSize")
    )
    visitor.server.answers = [stream([" tree"])]
    page.locator(".token").last.hover()
    page.locator("#alternatives .alternative:not([aria-current])").first.click()
    page.get_by_text("2/2").wait_for()
    assert text(visitor) == "A big"  # the alternative ends the text
