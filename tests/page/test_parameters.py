"""The panel: every parameter of the server's schema, its bounds, what is sent; presets; the key."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.api.schemas import fields_of
from gateway.api.schemas.sampling import ChangesNothing, SamplingBody
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]
MODES = {"chat": "ChatBody", "complete": "CompletionBody"}
SAMPLING = set(fields_of(SamplingBody)) - set(fields_of(ChangesNothing)) - {"model", "stream"}
SHOWN = {"chat": SAMPLING | {"max_tokens", "n", "response_format", "top_logprobs"}}
SHOWN["complete"] = SHOWN["chat"] - {"top_logprobs"} | {"logprobs"}
LARGEST_SAFE = 2**53 - 1  # integers beyond are not exact in JavaScript
CONTEXT = 1024  # of the tiny model


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_of_the_schema_is_there_with_its_bounds_and_a_sentence(visit: Visit, mode: str) -> None:
    visitor = visit()
    visitor.mode(mode)
    schema = httpx.get(f"{visitor.url}/openapi.json").json()["components"]["schemas"][MODES[mode]]["properties"]
    visitor.parameter("n")  # unfolds the advanced ones
    names = visitor.page.locator("[data-parameter]").evaluate_all("all => all.map(one => one.dataset.parameter)")
    assert set(names) == SHOWN[mode] and len(names) == len(SHOWN[mode])
    for name in names:
        told = schema[name]["anyOf"][0]
        assert len(visitor.page.inner_text(f"#parameter-{name}-hint")) > 20
        if told.get("type") in ("integer", "number"):
            control = visitor.parameter(name)
            low, high = float(control.get_attribute("min")), float(control.get_attribute("max"))
            assert low == max(told["minimum"], -LARGEST_SAFE, 1 if name == "max_tokens" else -LARGEST_SAFE)
            assert high == min(told["maximum"], CONTEXT if name in ("max_tokens", "min_tokens") else LARGEST_SAFE)


def test_the_server_gets_what_was_set_and_nothing_else(visit: Visit) -> None:
    visitor = visit()
    assert not SAMPLING & visitor.send("Hello").keys()  # the defaults are the server's business
    values: dict[str, Any] = {
        "max_tokens": 3,
        "min_tokens": 2,
        "temperature": 1.25,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.05,
        "seed": 42,
        "n": 2,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.5,
        "ignore_eos": True,
    }
    visitor.set(**values, stop="END\nthe end", logit_bias="5: -100\n6: 2.5")
    body = visitor.send("Hello")
    assert {name: body[name] for name in values} == values
    assert body["stop"] == ["END", "the end"] and body["logit_bias"] == {"5": -100, "6": 2.5}
    assert visitor.notice().is_hidden() and len(visitor.answers()) == 3  # two of them new
    visitor.arrive()  # again: the settings are kept
    assert visitor.parameter("temperature").input_value() == "1.25"


def test_a_slider_and_its_number_move_together(visit: Visit) -> None:
    visitor = visit()
    slider = visitor.page.get_by_role("slider", name="Temperature")
    slider.fill("1.5")
    assert visitor.parameter("temperature").input_value() == "1.5"
    visitor.set(temperature=0.2)
    assert slider.input_value() == "0.2"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("temperature", "2.5", "Temperature must be 0 to 2."),
        ("max_tokens", "5000", "Max tokens must be 1 to 1,024."),
        ("top_k", "1.5", "Top-k must be a whole number"),
        ("logit_bias", "the: 5", "Write one per line as token id: bias"),
        ("stop", "a\nb\nc\nd\ne", "At most 4"),
    ],
)
def test_a_value_out_of_bounds_is_told_at_its_control_and_not_sent(visit: Visit, name: str, value: str, sentence: str) -> None:
    visitor = visit()
    visitor.set(**{name: value})
    assert sentence in visitor.page.inner_text(f"#parameter-{name}-wrong")
    visitor.begin("Hello")
    assert visitor.page.evaluate("document.activeElement.id") == f"parameter-{name}"
    assert visitor.sends() == 0 and visitor.box().input_value() == "Hello"


def test_the_few_that_matter_come_first_and_the_others_unfold(visit: Visit) -> None:
    visitor = visit()
    shown = visitor.page.locator("[data-parameter]:visible").evaluate_all("all => all.map(one => one.dataset.parameter)")
    assert shown == ["temperature", "top_p", "max_tokens"]
    visitor.set(top_k=7, seed=1.5)
    assert visitor.page.inner_text("#advanced-changed") == "1 changed"
    visitor.page.locator("#advanced summary").click()
    visitor.begin("Hello")  # not with such a seed: its control is shown
    assert visitor.page.evaluate("document.activeElement.id") == "parameter-seed"
    assert visitor.parameter("seed").is_visible() and visitor.sends() == 0


def test_an_answer_of_a_given_form(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=60)
    visitor.parameter("response_format").select_option("regex")
    assert "Enter the schema" in visitor.page.inner_text("#parameter-response_format-wrong")
    visitor.page.get_by_label("Schema, expression or grammar").fill("(yes|no)")
    assert visitor.send("Is it?")["response_format"] == {"type": "regex", "regex": "(yes|no)"}
    assert visitor.answers()[0] in ("yes", "no")
    visitor.parameter("response_format").select_option("json_schema")
    visitor.page.get_by_label("Schema, expression or grammar").fill('{"type": "integer", "maximum": 9, "minimum": 0}')
    visitor.send("How many?")
    assert visitor.answers()[1] in set("0123456789")
    visitor.parameter("response_format").select_option("json_schema")
    visitor.page.get_by_label("Schema, expression or grammar").fill("{")
    assert "not valid JSON" in visitor.page.inner_text("#parameter-response_format-wrong")


def test_presets_set_what_they_name_and_leave_the_length_alone(visit: Visit) -> None:
    visitor = visit()
    visitor.set(max_tokens=3, top_k=9)
    pressed = visitor.page.locator("#presets [aria-pressed=true]")
    assert pressed.count() == 0
    for name in ("Exact", "Creative", "Wild", "No repeats", "Default"):
        visitor.click(name)
        assert pressed.all_inner_texts() == [name]
        assert visitor.parameter("max_tokens").input_value() == "3"
    visitor.click("Exact")
    body = visitor.send("Hello")
    assert body["temperature"] == 0 and "top_k" not in body and body["max_tokens"] == 3


def test_the_key_is_kept_for_the_next_visit_or_only_for_this_tab(visit: Visit, api_key: str) -> None:
    visitor = visit()
    page = visitor.page
    assert page.input_value("#key") == api_key  # the default one
    page.fill("#key", "密钥")
    page.locator("#key").blur()
    page.get_by_text("refused the API key").wait_for()
    visitor.arrive(connected=False)
    assert page.input_value("#key") == "密钥"
    page.fill("#key", api_key)
    page.uncheck("#remember")
    page.locator("#model option").first.wait_for(state="attached")
    assert page.evaluate("localStorage.getItem('tidegate.key')") is None
    visitor.arrive()
    assert page.input_value("#key") == api_key and not page.is_checked("#remember")
    other_tab = page.context.new_page()
    other_tab.goto(visitor.url)
    assert other_tab.evaluate("sessionStorage.getItem('tidegate.key')") is None
