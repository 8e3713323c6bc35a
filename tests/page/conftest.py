"""The page in a real browser, offline."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.missing import missing
from tests.page.visitor import Visitor

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One a file: as long as it is there, playwright runs an event loop, and a test of another file could not run its own."""
    if CHROMIUM is None:
        message = "no chromium here, the page was NOT tested (apt-get install chromium)"
        missing(message)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, tiny_gateway_url: str, api_key: str) -> Iterator[Callable[..., Visitor]]:
    """``visit()`` opens the page, by default on the gateway of the tiny model. At the end, nothing may have been loaded from
    elsewhere, refused by the policy or thrown, and no address may have had the key in it.
    """
    visitors: list[Visitor] = []

    def open_one(url: str = tiny_gateway_url, *, connected: bool = True, **options: Any) -> Visitor:
        context = browser.new_context(**({"locale": "en-US"} | options))
        visitors.append(Visitor(context.new_page(), url))
        visitors[-1].arrive(connected)
        return visitors[-1]

    yield open_one
    for visitor in visitors:
        asked = list(visitor.asked)
        visitor.page.context.close()
        assert visitor.problems == []
        assert [address for address in asked if not address.startswith((visitor.url, "blob:"))] == []
        assert [address for address in asked if api_key in address] == []
