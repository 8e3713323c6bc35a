"""The page at / in a real browser, offline: what a visitor sees and does."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        message = "no chromium here, the page was NOT tested (apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, gateway_url: str) -> Iterator[Any]:
    """Opens the page; at the end, nothing may have been loaded from elsewhere, refused by the policy, or thrown."""
    problems: list[str] = []
    contexts = []

    def open_one(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
        page.on("request", lambda asked: None if asked.url.startswith(gateway_url) else problems.append(asked.url))
        page.goto(gateway_url)
        playwright.expect(page.locator("#model option")).not_to_have_count(0)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []


def send(page: Any, prompt: str, max_tokens: int) -> None:
    page.fill("#max-tokens", str(max_tokens))
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")


def finished(page: Any) -> None:
    playwright.expect(page.locator("#stop")).to_be_hidden(timeout=30_000)


def test_a_message_is_answered_with_time_and_speed(open_page: Any) -> None:
    page = open_page(locale="en-US")
    send(page, "Hello, world!", 12)
    playwright.expect(page.locator("article.user")).to_have_text("Hello, world!")
    playwright.expect(page.locator("article.assistant")).not_to_be_empty()
    finished(page)
    assert "tokens/s" in page.inner_text("#figures")
    assert page.input_value("#prompt") == ""
    send(page, "And?", 4)
    finished(page)
    assert page.locator("article").count() == 4
    page.click("#clear")
    assert page.locator("article").count() == 0


def test_a_text_goes_on_behind_its_beginning(open_page: Any) -> None:
    page = open_page(locale="en-US")
    page.click("text=Complete")
    send(page, "Once upon a time", 12)
    playwright.expect(page.locator("article.whole b")).to_have_text("Once upon a time")
    finished(page)
    shown = page.inner_text("article.whole")
    assert shown.startswith("Once upon a time") and len(shown) > len("Once upon a time")


def test_stop_ends_an_answer_and_keeps_what_came(open_page: Any) -> None:
    page = open_page(locale="en-US")
    send(page, "Count from 1 to 1000, a number a line.", 1500)
    playwright.expect(page.locator("article.assistant")).not_to_be_empty()
    page.click("#stop")
    finished(page)
    assert "stopped" in page.inner_text("#figures")
    assert page.inner_text("article.assistant")


def test_a_wrong_key_is_told_in_a_sentence_and_the_message_is_kept(open_page: Any) -> None:
    page = open_page(locale="en-US")
    page.fill("#key", "wrong")
    send(page, "Hello", 4)
    playwright.expect(page.locator("#problem")).to_contain_text("refused the API key")
    finished(page)
    assert page.input_value("#prompt") == "Hello" and page.locator("article").count() == 0


def test_a_refused_parameter_is_told_in_the_servers_sentence(open_page: Any) -> None:
    page = open_page(locale="en-US")
    page.click("text=Complete")
    send(page, "Hello", 513)
    playwright.expect(page.locator("#problem")).to_contain_text("max_length is 513; it must be an integer from 1 to 512.")


def test_the_key_is_kept_for_the_next_visit(open_page: Any, api_key: str) -> None:
    page = open_page(locale="en-US")
    assert page.input_value("#key") == api_key  # the default one
    page.fill("#key", "密钥")
    page.locator("#key").blur()
    playwright.expect(page.locator("#problem")).to_contain_text("refused the API key")
    page.reload()
    assert page.input_value("#key") == "密钥"


def test_the_page_speaks_the_browsers_language(open_page: Any) -> None:
    chinese = open_page(locale="zh-CN")
    assert chinese.get_attribute("html", "lang") == "zh" and "发送" in chinese.inner_text("#send")
    english = open_page(locale="de-DE")
    assert english.get_attribute("html", "lang") == "en" and "Send" in english.inner_text("#send")


def test_every_word_of_the_page_is_in_both_languages(open_page: Any) -> None:
    for locale in ("en-US", "zh-CN"):
        page = open_page(locale=locale)
        words = page.locator("[data-text]").all_inner_texts()
        assert len(words) >= 10 and all(word and word != "undefined" for word in words)


def test_the_page_is_dark_where_the_system_is(open_page: Any) -> None:
    def brightness(scheme: str) -> int:
        page = open_page(color_scheme=scheme)
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")))

    assert brightness("dark") < 200 < 600 < brightness("light")


def test_what_a_model_writes_is_shown_as_text_and_never_run(open_page: Any) -> None:
    page = open_page(locale="en-US")
    page.click("text=Complete")
    send(page, "<img src=x onerror=alert(1)><script>alert(2)</script>", 2)
    finished(page)
    assert page.inner_text("article.whole").startswith("<img src=x onerror=alert(1)>")
    assert page.locator("#texts img, #texts script").count() == 0
