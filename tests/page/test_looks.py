"""Languages, colours, sizes, and what a screen reader finds."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SIZES = [(320, 640), (390, 844), (768, 1024), (1024, 700), (1920, 1080)]
SERIOUS = ("serious", "critical")


def test_the_page_speaks_the_browsers_language_and_the_one_that_is_chosen(visit: Visit) -> None:
    chinese = visit(locale="zh-CN").page
    assert chinese.get_attribute("html", "lang") == "zh-CN" and "新对话" in chinese.inner_text("#clear")
    visitor = visit(locale="de-DE")
    page = visitor.page
    assert page.get_attribute("html", "lang") == "en" and "New" in page.inner_text("#clear")
    page.select_option("#language", "zh")
    assert "新对话" in page.inner_text("#clear")
    assert "温度" in page.inner_text("#panel") and "续写" in page.inner_text("#send")
    visitor.arrive()
    assert "新对话" in page.inner_text("#clear")  # it is remembered


def test_both_languages_have_the_same_words_with_the_same_places_in_them(visit: Visit) -> None:
    page = visit().page
    en, zh = (page.evaluate(f"import('/static/js/words/{name}.js').then(words => words.default)") for name in ("en", "zh"))
    assert en.keys() == zh.keys()
    assert all(set(re.findall(r"{\w+}", en[key])) == set(re.findall(r"{\w+}", zh[key])) for key in en)
    assert all(en.values()) and all(zh.values())
    in_page = page.locator("[data-text]").evaluate_all("all => all.map(one => one.dataset.text)")
    assert len(in_page) > 20 and set(in_page) <= en.keys()


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_no_word_of_the_other_language_is_shown(visit: Visit, locale: str) -> None:
    visitor = visit(locale=locale)
    visitor.page.check("#probabilities")
    visitor.set(max_tokens=3)
    text = visitor.page.inner_text("body").replace("中文", "").replace("English", "")
    assert "undefined" not in text and "{" not in text.replace("{...}", "")
    chinese = re.findall(r"[\u4e00-\u9fff]+", text)
    assert bool(chinese) == (locale == "zh-CN")


@pytest.mark.slow
def test_colours_follow_the_system_and_the_switch(visit: Visit) -> None:
    def brightness(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    dark, light = visit(color_scheme="dark"), visit(color_scheme="light")
    assert brightness(dark.page) < 200 < 600 < brightness(light.page)
    dark.page.select_option("#theme", "light")
    light.page.select_option("#theme", "dark")
    assert brightness(light.page) < 200 < 600 < brightness(dark.page)
    light.arrive()
    assert brightness(light.page) < 200


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_nothing_is_wider_than_the_screen(visit: Visit, locale: str) -> None:
    visitor = visit(locale=locale)
    page = visitor.page
    visitor.mode("chat")
    page.check("#probabilities")
    visitor.set(n=2, max_tokens=30)
    visitor.send("W" * 200)
    page.get_by_role("button", name={"en-US": "Edit", "zh-CN": "编辑"}[locale]).click()
    beyond = "node => node.scrollWidth - node.clientWidth"
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert [page.locator(name).evaluate(beyond) for name in ("html", "#conversation")] == [0, 0], width
        for name in ("#send", "#prompt", "#clear"):
            box = page.locator(name).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height, (name, width)


def test_on_a_phone_the_settings_are_a_sheet_and_a_tap_shows_alternatives(visit: Visit) -> None:
    visitor = visit(**PHONE)
    page = visitor.page
    assert page.locator("#panel").is_hidden()
    parts = [part.bounding_box() for part in page.locator("header > :not(h1)").all()]
    assert (
        all(box["y"] + box["height"] < 60 for box in parts) and page.locator("header").bounding_box()["height"] < 60
    )  # one row
    page.tap("#settings")
    visitor.set(max_tokens=6, ignore_eos=True)
    assert page.get_attribute("#settings", "aria-expanded") == "true"
    page.locator("#panel").get_by_role("button", name="Close").tap()
    assert page.locator("#panel").is_hidden()
    page.check("#probabilities")
    visitor.box().fill("Hello")
    page.tap("#send")
    visitor.finished()
    page.locator(".token").first.tap()
    box = page.locator("#alternatives").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, PHONE | {"color_scheme": "dark"}], ids=["desktop", "dark-phone"]
)
def test_axe_finds_nothing_serious(visit: Visit, options: dict[str, Any]) -> None:
    visitor = visit(**options)
    page = visitor.page
    axe = Axe()

    def check(where: str) -> None:
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in SERIOUS]
        assert not found, (where, [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found])

    check("welcome")
    page.evaluate("localStorage.setItem('tidegate.parameters', JSON.stringify({n: 2, max_tokens: 40, temperature: 2}))")
    visitor.arrive()
    page.check("#probabilities")
    visitor.send("Hello")
    page.locator(".token").nth(2).focus()
    check("tokens")
    page.keyboard.press("Escape")
    page.click("#code")
    check("code")
    page.keyboard.press("Escape")
    if page.locator("#panel").is_hidden():
        page.click("#settings")
    visitor.set(temperature=9)
    check("panel with an error")
    page.fill("#key", "wrong")
    page.locator("#key").blur()
    visitor.notice().wait_for()
    check("notice")


def test_the_settings_beside_the_conversation_can_be_closed_and_stay_so(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    assert page.locator("#panel").is_visible()
    page.click("#panel-close")
    assert page.locator("#panel").is_hidden() and page.evaluate("document.activeElement.id") == "settings"
    visitor.arrive()
    assert page.locator("#panel").is_hidden()
    page.click("#settings")
    visitor.set(max_tokens=3)
    visitor.send("Hello")
    assert page.locator("#panel").is_visible()  # there is room for both


def test_a_screen_reader_hears_that_the_model_writes_and_then_the_answer(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=300, ignore_eos=True)
    visitor.begin("Hello")
    visitor.page.locator("#announcer").get_by_text("The model is writing.").wait_for(state="attached")
    assert visitor.page.get_attribute("#announcer", "role") == "status"
    visitor.finished()
    assert visitor.answers()[0].split()[0] in visitor.page.inner_text("#announcer")


def test_the_tab_key_reaches_the_box_the_buttons_and_the_panel_in_order(visit: Visit) -> None:
    visitor = visit()
    visitor.mode("chat")
    page = visitor.page
    reached = []
    page.locator("#prompt").focus()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:7] == ["probabilities", "code", "export", "clear", "send", "panel-close", "system"]
