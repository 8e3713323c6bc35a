"""The page and the reference behind a real nginx, configured as docs/operations.md says: under a path of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.nginx import PREFIX, documented, nginx_before
from tests.page.visitor import Visitor

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture
def prefixed(tiny_gateway_url: str, tmp_path: Path) -> Iterator[str]:
    with nginx_before(tiny_gateway_url, tmp_path / "nginx", documented()) as url:
        yield f"{url}{PREFIX}/"


def test_the_page_works_under_a_prefix(visit: Callable[..., Visitor], prefixed: str) -> None:
    visitor = visit(prefixed)  # whose addresses must all begin with it
    visitor.mode("complete")
    visitor.set(max_tokens=5)
    visitor.send("The king")
    visitor.answered()
    visitor.page.click("#code")
    assert f"{prefixed}v1/completions" in visitor.page.inner_text("#snippet")
    assert visitor.page.locator("h1 img").evaluate("image => image.naturalWidth") > 0
    assert visitor.page.locator("a[data-text=reference]").evaluate("link => link.href") == f"{prefixed}docs"


def test_the_page_can_be_installed_as_an_application(visit: Callable[..., Visitor], prefixed: str) -> None:
    visitor = visit(prefixed)
    browser = visitor.page.context.new_cdp_session(visitor.page)
    manifest = browser.send("Page.getAppManifest")
    assert manifest["url"] == f"{prefixed}static/manifest.webmanifest" and manifest["errors"] == []
    assert manifest["manifest"]["startUrl"] == prefixed
    assert [
        error
        for error in browser.send("Page.getInstallabilityErrors")["installabilityErrors"]
        if error["errorId"] != "in-incognito"
    ] == []
    assert visitor.page.request.get(manifest["url"]).headers["content-type"] == "application/manifest+json"


@pytest.mark.slow
def test_the_reference_works_under_a_prefix(browser: Any, prefixed: str, api_key: str) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{prefixed}docs")
    page.click("text=/livez")
    page.click("text=Try it out")
    page.click("text=Execute")
    page.locator(".live-responses-table .response").first.wait_for()
    page.close()
    assert f"{prefixed}livez" in asked
    assert [address for address in asked if not address.startswith((prefixed, "data:"))] == []


def test_the_interface_and_streams_work_under_a_prefix(prefixed: str, api_key: str) -> None:
    assert httpx.get(f"{prefixed}openapi.json").json()["servers"] == [{"url": "."}]
    body = {"prompt": "The king", "max_length": 5, "stream": True}
    answer = httpx.post(f"{prefixed}generate", json=body, headers={"X-API-Key": api_key})
    assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
