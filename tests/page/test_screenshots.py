"""The pictures of docs/page.md: what they show is done here, with the demonstration model.

UPDATE_SCREENSHOTS=1 takes them again.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.page.visitor import WAIT, Visitor

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]
IMAGES = ROOT / "docs" / "images"
UPDATE = os.environ.get("UPDATE_SCREENSHOTS") == "1"
LARGEST = 60_000  # bytes
COLOURS = 160  # enough for flat colours and the edges of letters
SLOW = 300_000  # ms for a long answer on a busy machine
DESKTOP = {"viewport": {"width": 1200, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def take(tmp_path: Path) -> Callable[[Visitor, str], None]:
    def take_one(visitor: Visitor, name: str) -> None:
        file = (IMAGES if UPDATE else tmp_path) / f"page-{name}.png"
        visitor.page.evaluate("document.activeElement.blur(); document.querySelector('#panel').scrollTop = 0")
        visitor.page.screenshot(path=file, animations="disabled")
        if UPDATE:
            with Image.open(file) as picture:
                picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        kept = IMAGES / file.name
        assert kept.exists(), "run: UPDATE_SCREENSHOTS=1 pytest tests/page/test_screenshots.py"
        assert 5_000 < kept.stat().st_size < LARGEST and f"images/{file.name}" in (ROOT / "docs" / "page.md").read_text()

    return take_one


def ask(visitor: Visitor, prompt: str, **parameters: Any) -> None:
    # Long answers make good pictures; the test itself needs none.
    visitor.set(**parameters | {"max_tokens": parameters.get("max_tokens", 150) if UPDATE else 4})
    visitor.page.set_default_timeout(SLOW if UPDATE else WAIT)
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
    visitor.page.locator(".token[data-p='2']").last.hover()
    take(visitor, "probabilities")


def test_several_answers_in_the_dark(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, **DESKTOP, color_scheme="dark")
    ask(visitor, "Begin a story by the sea.", n=3, seed=2, temperature=0.9, max_tokens=45)
    take(visitor, "dark")


def test_a_phone_in_chinese(visit: Visit, take: Callable[[Visitor, str], None], gateway_url: str) -> None:
    visitor = visit(gateway_url, locale="zh-CN", **PHONE)
    visitor.page.tap("#settings")
    visitor.set(temperature=0.3)
    take(visitor, "phone-settings")
    visitor.set(temperature=0, max_tokens=80 if UPDATE else 4)
    visitor.page.tap("#settings")
    visitor.page.fill("#prompt", "What lives in the sea? Answer in one sentence.")
    visitor.page.tap("#send")
    visitor.finished()
    take(visitor, "phone")
