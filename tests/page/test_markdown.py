"""Answers as Markdown: what is shown, what is never let through, what it costs."""

from typing import Any

import pytest

from tests.page.scripted import ScriptedVisitor, stream

ANSWER = """# Tides

They come **twice** a day, see [the sea](https://example.org/sea).

| moon | tide |
| :--- | ---: |
| full | high |

```python
print("<b>tide</b>")
```

1. flood
2. ebb
"""
HOSTILE = """<img src=x onerror=alert(1)><script>alert(2)</script>

[a](javascript:alert(3)) [b](data:text/html,<script>alert(4)</script>) <javascript:alert(5)> [c](vbscript:x)

![tracker](https://example.org/pixel.png)

[d]: javascript:alert(6)
[d] and [e](https://example.org/" onclick="alert(7))

```html" onload="alert(8)
<iframe src="https://example.org"></iframe>
```
"""


@pytest.fixture
def visitor(browser: Any) -> Any:
    context = browser.new_context(locale="en-US", permissions=["clipboard-read", "clipboard-write"])
    visitor = ScriptedVisitor(context.new_page())
    visitor.arrive()
    yield visitor
    context.close()
    assert visitor.problems == []
    assert [address for address in visitor.asked if not address.startswith(visitor.url)] == []


def answered(visitor: ScriptedVisitor, text: str) -> Any:
    visitor.server.answers = [stream([text], finish="stop")]
    visitor.send("Hello")
    return visitor.page.locator(".sample .message").last


def test_an_answer_is_shown_as_markdown_and_token_by_token_as_it_was_written(visitor: ScriptedVisitor) -> None:
    message = answered(visitor, ANSWER)
    assert message.locator("h1").inner_text() == "Tides" and message.locator("strong").inner_text() == "twice"
    assert message.locator("ol li").all_inner_texts() == ["flood", "ebb"]
    assert message.locator("td").last.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    link = message.get_by_role("link")
    assert link.get_attribute("target") == "_blank" and link.get_attribute("rel") == "noopener noreferrer"
    assert message.locator(".code-head span").inner_text() == "python"
    visitor.click("Copy code")
    visitor.page.get_by_text("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == 'print("<b>tide</b>")'
    visitor.page.check("#probabilities")
    assert visitor.page.locator(".sample .message").inner_text().strip() == ANSWER.strip()


def test_the_probabilities_of_an_answer_are_saved_as_a_file_that_needs_nothing_else(visitor: ScriptedVisitor) -> None:
    visitor.page.check("#probabilities")
    answered(visitor, "<b>tide</b>")
    with visitor.page.expect_download() as written:
        visitor.click("Save as HTML")
    assert written.value.suggested_filename.endswith(".html")
    content = written.value.path().read_text()
    assert "http" not in content and "<script" not in content
    page = visitor.page.context.new_page()
    page.set_content(content)
    token = page.locator("main [data-p]")
    assert token.inner_text() == "<b>tide</b>" and "36.8%" in token.get_attribute("title")
    colour = "node => getComputedStyle(node).backgroundColor"
    assert token.evaluate(colour) == page.locator(f"footer [data-p='{token.get_attribute('data-p')}']").evaluate(colour)
    assert token.evaluate(colour) != "rgba(0, 0, 0, 0)"


def test_no_html_script_or_image_of_an_answer_reaches_the_page(visitor: ScriptedVisitor) -> None:
    message = answered(visitor, HOSTILE)
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>" in message.inner_text()
    assert message.locator("img, script, iframe, object, embed, form, style").count() == 0
    names = message.evaluate("node => [...node.querySelectorAll('*')].flatMap(one => one.getAttributeNames())")
    assert not [name for name in names if name.startswith("on") or name in ("style", "src")]
    addresses = message.locator("a").evaluate_all("all => all.map(link => link.href)")
    assert addresses and all(address.startswith("https://example.org/") for address in addresses)


@pytest.mark.slow
def test_an_answer_of_two_thousand_tokens_is_drawn_cheaply_to_its_end(visitor: ScriptedVisitor) -> None:
    """Each drawing parses the whole text, but leaves finished blocks alone. Counted, not timed: the machine may be busy."""
    told = visitor.page.evaluate(
        """async (part) => {
            const { markdownView } = await import("/static/js/markdown.js");
            const target = document.body.appendChild(document.createElement("div"));
            const show = markdownView(target);
            const text = part.repeat(50);
            show(text.slice(0, 300));
            const first = target.firstChild;
            const observer = new MutationObserver(() => {});
            observer.observe(target, { childList: true });
            let drawings = 0;
            for (let end = 300; end < text.length; end += 12, drawings += 1) show(text.slice(0, end));
            show(text);
            const made = observer.takeRecords().reduce((sum, { addedNodes }) => sum + addedNodes.length, 0);
            const kept = target.firstChild === first;
            return { made, drawings, kept, blocks: target.childElementCount, characters: text.length };
        }""",
        ANSWER,
    )
    assert told["characters"] > 8000 and told["drawings"] > 600
    assert told["kept"] and told["blocks"] > 200
    assert told["made"] < 2 * told["drawings"]  # one block, seldom two, in each drawing
