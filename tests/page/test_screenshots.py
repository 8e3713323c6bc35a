"""The pictures of docs/page.md: what they show is done here, with the demonstration model.

UPDATE_SCREENSHOTS=1 takes them again.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]
IMAGES = ROOT / "docs" / "images"
UPDATE = os.environ.get("UPDATE_SCREENSHOTS") == "1"
LARGEST = 150_000  # bytes
DESKTOP = {"viewport": {"width": 1200, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def take(tmp_path: Path) -> Callable[[Visitor, str], None]:
    def take_one(visitor: Visitor, name: str) -> None:
        file = (IMAGES if UPDATE else tmp_path) / f"page-{name}.png"
        visitor.page.evaluate("document.activeElement.blur(); document.querySelector('#panel').scrollTop = 0")
        visitor.page.screenshot(path=file, animations="disabled")
        kept = IMAGES / file.name
        assert kept.exists(), "run: UPDATE_SCREENSHOTS=1 pytest tests/page/test_screenshots.py"
        assert 5_000 < kept.stat().st_size < LARGEST and f"images/{file.name}" in (ROOT / "docs" / "page.md").read_text()

    return take_one


def ask(visitor: Visitor, prompt: str, **parameters: Any) -> None:
    # Long answers make good pictures; the test itself needs none.
    visitor.set(**parameters | {"max_tokens": parameters.get("max_tokens", 150) if UPDATE else 4})
    visitor.send(prompt)


def test_a_desktop(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, **DESKTOP)
    ask(visitor, "Why is the sea salty? Answer in two sentences.", temperature=0)
    ask(visitor, "What lives in it?", max_tokens=110)
    take(visitor, "desktop")


def test_probabilities(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, **DESKTOP)
    visitor.page.check("#probabilities")
    ask(visitor, "Write a short story about a lighthouse keeper.", seed=5, max_tokens=110)
    visitor.page.locator(".token[data-p='2']").first.hover()
    take(visitor, "probabilities")


def test_several_answers_in_the_dark(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, **DESKTOP, color_scheme="dark")
    visitor.mode("complete")
    ask(visitor, "Once upon a time, by the sea,", n=3, seed=2, temperature=0.9, max_tokens=45)
    take(visitor, "dark")


def test_a_phone_in_chinese(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, locale="zh-CN", **PHONE)
    visitor.page.tap("#settings")
    visitor.set(temperature=0.3)
    take(visitor, "phone-settings")
    visitor.set(max_tokens=80 if UPDATE else 4)
    visitor.page.tap("#settings")
    visitor.page.fill("#prompt", "What is the capital of France?")
    visitor.page.tap("#send")
    visitor.finished()
    take(visitor, "phone")
