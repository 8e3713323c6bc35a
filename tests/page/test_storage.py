"""Conversations survive: a reload, another tab, a way out of this browser and back."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.http_client import until
from tests.page.scripted import ScriptedVisitor, hold, stream

Visit = Callable[[], ScriptedVisitor]


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(locale="en-US")
    yield context
    context.close()


@pytest.fixture
def visit(context: Any) -> Iterator[Visit]:
    visitors: list[ScriptedVisitor] = []

    def open_one() -> ScriptedVisitor:
        visitors.append(ScriptedVisitor(context.new_page()))
        visitors[-1].arrive()
        return visitors[-1]

    yield open_one
    for visitor in visitors:
        assert visitor.problems == []


def titles(visitor: ScriptedVisitor) -> Any:
    if not visitor.page.locator("#drawer").is_visible():
        visitor.page.click("#drawer-toggle")
    return visitor.page.locator("#drawer .title")


def listed(visitor: ScriptedVisitor, *expected: str) -> bool:
    locator = titles(visitor)
    return any(locator.all_inner_texts() == list(expected) for _ in until(20))


def say(visitor: ScriptedVisitor, prompt: str, *answer: str) -> None:
    visitor.server.answers = [stream(list(answer))]
    visitor.send(prompt)


@pytest.mark.slow
def test_a_reload_keeps_answers_their_versions_their_tokens_and_the_system_message(visit: Visit) -> None:
    visitor = visit()
    visitor.page.check("#probabilities")
    visitor.page.fill("#system", "Be brief.")
    say(visitor, "Hello", "one", " two")
    visitor.server.answers = [stream(["three", " four", " five"])]
    visitor.click("Regenerate")
    visitor.page.get_by_text("2/2").wait_for()
    visitor.finished()
    visitor.page.reload()
    visitor.page.locator("#code:enabled").wait_for()
    assert visitor.page.locator(".token").all_inner_texts() == ["three", " four", " five"]
    visitor.page.locator(".token").nth(1).hover()
    assert visitor.page.locator("#alternatives .alternative").count() == 2
    assert visitor.page.input_value("#system") == "Be brief."
    visitor.click("Previous answer")
    assert visitor.answers() == ["one two"]
    say(visitor, "And?", "six")
    assert [said["content"] for said in visitor.server.bodies[-1]["messages"]] == ["Be brief.", "Hello", "one two", "And?"]


def test_an_answer_under_way_is_kept_as_far_as_it_came_and_can_go_on(visit: Visit) -> None:
    visitor = visit()
    visitor.server.answers = [stream(["one", " two"], finish=None, whole=False), hold([])]
    visitor.begin("Hello")
    assert any(visitor.answers() == ["one two"] for _ in until(10))
    visitor.page.reload()
    visitor.page.locator("#model option").first.wait_for(state="attached")
    assert visitor.answers() == ["one two"]
    visitor.server.answers = [stream([" three"])]
    visitor.click("Continue")
    assert any(visitor.answers() == ["one two three"] for _ in until(10))


def test_new_loses_nothing_and_the_drawer_opens_renames_and_deletes(visit: Visit) -> None:
    visitor = visit()
    say(visitor, "First question", "first answer")
    visitor.click("New")
    assert visitor.page.locator(".welcome").is_visible()
    say(visitor, "Second question", "second answer")
    assert listed(visitor, "Second question", "First question")
    titles(visitor).last.click()
    visitor.page.get_by_text("first answer").wait_for()
    titles(visitor).last.hover()
    visitor.page.get_by_label("More for “First question”").click()
    visitor.click("Rename")
    visitor.page.locator("#drawer").get_by_label("Rename").fill("Tides")
    visitor.page.keyboard.press("Enter")
    assert listed(visitor, "Second question", "Tides")
    visitor.page.get_by_label("More for “Tides”").click()
    visitor.click("Delete")
    visitor.click("Delete")
    assert listed(visitor, "Second question") and visitor.answers() == []
    visitor.arrive()
    assert listed(visitor, "Second question")


@pytest.mark.slow
def test_two_tabs_never_overwrite_each_other(visit: Visit) -> None:
    one, other = visit(), visit()
    say(one, "From one tab", "one")
    say(other, "From the other", "other")
    assert listed(one, "From the other", "From one tab") and listed(other, "From the other", "From one tab")
    # Both open the same conversation: what is said in one is seen in the other,
    titles(other).last.click()
    assert any(other.answers() == ["one"] for _ in until(20))
    say(one, "More", "from one")
    assert any(other.answers() == ["one", "from one"] for _ in until(20))
    # and where both go on at the same time, both are kept.
    routes: list[Any] = []
    for tab in (one, other):
        tab.server.answers = [hold(routes)]
        tab.begin("At the same time")
    assert any(len(routes) == 2 for _ in until(20))
    for route, text in zip(routes, ("left", "right"), strict=True):
        stream([text])(route)
    one.finished()
    other.finished()
    assert listed(one, "From one tab", "From one tab", "From the other")
    found = []
    for index in range(2):
        titles(one).nth(index).click()
        assert any(len(one.answers()) == 3 for _ in until(20))
        found.append(one.answers()[-1])
    assert sorted(found) == ["left", "right"]


@pytest.mark.slow
def test_an_export_is_imported_into_another_browser_and_a_foreign_file_is_refused(
    browser: Any, visit: Visit, tmp_path: Path
) -> None:
    visitor = visit()
    say(visitor, "First question", "one", " two")
    visitor.click("New")
    say(visitor, "Second question", "three")
    assert listed(visitor, "Second question", "First question")
    with visitor.page.expect_download() as written:
        visitor.click("Export all")
    file = tmp_path / "all.json"
    written.value.save_as(file)
    elsewhere = browser.new_context(locale="en-US")
    other = ScriptedVisitor(elsewhere.new_page())
    other.arrive()
    assert titles(other).count() == 0
    for _ in range(2):  # the second time there is nothing new in it
        other.page.set_input_files("#import-file", file)
        assert listed(other, "Second question", "First question")
    titles(other).last.click()
    assert any(other.answers() == ["one two"] for _ in until(20))
    other.page.check("#probabilities")
    assert other.page.locator(".token").all_inner_texts() == ["one", " two"]
    content = json.loads(file.read_text())
    content["conversations"][0]["exchanges"][0]["versions"][0]["samples"][0]["text"] = {"not": "a text"}
    for name, text in (("broken.json", json.dumps(content)), ("other.json", "[]"), ("photo.json", "\x89PNG")):
        (tmp_path / name).write_text(text)
        other.page.set_input_files("#import-file", tmp_path / name)
        other.page.get_by_text(f"{name} is not a conversation export").wait_for()
    assert listed(other, "Second question", "First question") and other.problems == []
    elsewhere.close()


def test_without_a_database_the_page_works_and_says_that_it_keeps_nothing(visit: Visit, context: Any) -> None:
    denied = "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('denied', 'SecurityError'); } })"
    context.add_init_script(denied)
    visitor = visit()
    say(visitor, "First question", "first answer")
    visitor.click("New")
    say(visitor, "Second question", "second answer")
    assert listed(visitor, "Second question", "First question")
    assert "does not store data" in visitor.page.inner_text("#not-kept")
    titles(visitor).last.click()
    visitor.page.get_by_text("first answer").wait_for()
