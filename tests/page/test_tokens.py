"""Tokens with their probability, and going on from another one."""

import math
import re
from collections.abc import Callable

import pytest

from tests.conftest import CHARACTERS
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]


@pytest.fixture
def visitor(visit: Visit, character_gateway_url: str) -> Visitor:
    """A model over characters: each token is one, and a text is the same tokens however it came about."""
    visitor = visit(character_gateway_url)
    visitor.page.check("#probabilities")
    visitor.set(max_tokens=20)
    visitor.click("Exact")
    visitor.send("the")
    return visitor


def test_every_token_has_the_tint_and_the_probability_that_the_server_tells(visitor: Visitor) -> None:
    tokens = visitor.page.locator(".token")
    assert "".join(tokens.all_inner_texts()) == visitor.answers()[0]
    labels = [token.get_attribute("aria-label") for token in tokens.all()]
    shares = [float(re.search(r"([\d.]+)%$", label)[1]) / 100 for label in labels]  # type: ignore[index,arg-type]
    tints = [int(token.get_attribute("data-p") or "") for token in tokens.all()]
    assert len(tints) == 20 and all(0 < share <= 1 for share in shares)
    bounds = (0.05, 0.15, 0.35, 0.6, 0.9)
    assert all(
        abs(tint - sum(share >= bound for bound in bounds)) <= (share in bounds)
        for tint, share in zip(tints, shares, strict=True)
    )
    background = "getComputedStyle(arguments[0]).backgroundColor"
    assert len({token.evaluate(f"node => {background.replace('arguments[0]', 'node')}") for token in tokens.all()}) > 1


def test_pointing_at_a_token_shows_what_else_could_have_stood_there(visitor: Visitor) -> None:
    visitor.page.locator(".token").nth(3).hover()
    alternatives = visitor.page.locator("#alternatives .alternative")
    assert alternatives.count() == 5
    shares = [
        float(text.strip().removesuffix("%"))
        for text in visitor.page.locator("#alternatives .alternative span").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 101
    assert visitor.page.locator("#alternatives [aria-current]").count() == 1
    visitor.page.mouse.move(1, 1)
    visitor.page.locator("#alternatives").wait_for(state="hidden")


def test_the_number_of_alternatives_is_a_setting(visitor: Visitor) -> None:
    visitor.set(logprobs=2)
    assert visitor.send("a")["logprobs"] == 2
    visitor.page.locator(".token").last.hover()
    assert visitor.page.locator("#alternatives .alternative").count() == 2


@pytest.mark.parametrize("mode", ["complete", "chat"])
def test_the_text_goes_on_from_the_alternative_that_was_clicked(visitor: Visitor, mode: str) -> None:
    visitor.mode(mode)
    visitor.click("New")
    visitor.send("the")
    [old] = visitor.answers()
    visitor.page.locator(".token").nth(4).hover()
    other = visitor.page.locator("#alternatives .alternative:not([aria-current])").first
    chosen = other.locator("code").inner_text().replace("␣", " ").replace("⏎", "\n")
    other.click()
    visitor.page.get_by_text("2/2").wait_for()
    visitor.finished()
    [new] = visitor.answers()
    assert new.startswith(old[:4] + chosen) and len(new) == 5 + 20
    # What follows is what the model makes of this beginning, to the character.
    expected = visitor.page.evaluate(
        "body => fetch('/v1/completions', {method: 'POST', body: JSON.stringify(body), headers:"
        " {'Content-Type': 'application/json', 'X-API-Key': 'a_default_key_for_testing'}}).then(answer => answer.json())",
        {"model": CHARACTERS, "prompt": "the" + new[:5], "max_tokens": 20, "temperature": 0},
    )
    assert new[5:] == expected["choices"][0]["text"]
    visitor.click("Previous answer")
    assert visitor.answers() == [old]


def test_the_keyboard_reaches_every_token_and_every_alternative(visitor: Visitor) -> None:
    page = visitor.page
    page.locator(".token").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("[...document.querySelectorAll('.token')].indexOf(document.activeElement)") == 4
    assert page.locator(".token[tabindex='0']").count() == 1
    assert page.locator("#alternatives").is_visible()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "alternative"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").startswith("token")
    assert page.locator("#alternatives").is_hidden()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.get_by_text("2/2").wait_for()


def test_a_character_of_several_tokens_is_one_piece_with_the_product_of_their_probabilities(visit: Visit) -> None:
    """A random GPT-2 writes many halves of characters; whatever it writes, the tokens together are the answer."""
    visitor = visit()
    visitor.page.check("#probabilities")
    visitor.set(max_tokens=150, seed=3, ignore_eos=True)
    visitor.send("你好")
    [answer] = visitor.answers()
    page = visitor.page
    assert page.locator(".generated [role=group]").evaluate("group => group.textContent") in answer
    pieces = page.evaluate(
        "async () => { const { Segments, segmentProbability } = await import('/static/js/segments.js');"
        " const token = (bytes, logprob) => ({ bytes, logprob, top: [] }); const segments = new Segments();"
        " segments.extend([token([0xe4], -1), token([0xbd, 0xa0], -2), token([97], -0.5), token([0xe5], 0)], '你a', false);"
        " return segments.list.map((segment) => [segment.text, segment.tokens.length, segmentProbability(segment)]); }"
    )
    assert [(text, count) for text, count, _ in pieces] == [("你", 2), ("a", 1)]
    assert math.isclose(pieces[0][2], math.exp(-3))


def test_probabilities_can_be_looked_at_after_the_answer_and_put_away(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=5, ignore_eos=True)
    visitor.send("The king")
    [answer] = visitor.answers()
    assert visitor.page.locator(".token").count() == 0
    visitor.page.check("#probabilities")
    assert visitor.page.locator(".token").count() >= 1 and visitor.answers() == [answer]
    visitor.page.uncheck("#probabilities")
    assert visitor.page.locator(".token").count() == 0 and visitor.answers() == [answer]
