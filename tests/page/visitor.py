"""What somebody does on the page."""

import re
from typing import Any

from tests.gateway.http_client import until

WAIT = 20_000  # ms


class Visitor:
    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []  # addresses
        self.problems: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if "Content Security Policy" in line.text else None)
        page.on("request", lambda asked: self.asked.append(asked.url))

    def arrive(self, connected: bool = True) -> None:
        self.page.goto(self.url)
        if connected:
            self.page.locator("#model option").first.wait_for(state="attached")

    def mode(self, name: str) -> None:
        self.page.locator(f"input[value={name}]").check(force=True)  # the visible part of a radio button is its label

    def parameter(self, name: str) -> Any:
        """Its control, which may be folded away."""
        folded = self.page.locator(f"details:not([open]):has(#parameter-{name}) > summary")
        if folded.count():
            folded.click()
        return self.page.locator(f"#parameter-{name}")

    def set(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            if isinstance(value, bool):
                self.parameter(name).set_checked(value)
            else:
                self.parameter(name).fill(str(value))

    def begin(self, prompt: str) -> None:
        """Sends it and waits for nothing. In Complete it becomes the whole document."""
        self.box().fill(prompt)
        self.page.keyboard.press("Control+Enter")

    def box(self) -> Any:
        """What is typed into: a message, or in Complete the document."""
        return self.page.locator("#prompt:visible, #document:visible")

    def send(self, prompt: str) -> Any:
        """Sends it, and waits for the end of the answer; the body that was sent."""
        with self.page.expect_request(re.compile("/v1/(chat/)?completions$")) as sent:
            self.begin(prompt)
        self.finished()
        return sent.value.post_data_json

    def finished(self) -> None:
        self.page.locator("#stop").wait_for(state="hidden")

    def writing(self, beyond: str = "") -> None:
        """Waits until the last answer is a good deal longer than ``beyond``."""
        # Not with wait_for_function: it evaluates a string, which the page's policy refuses.
        assert any(self.answers() and len(self.answers()[-1]) > len(beyond) + 20 for _ in until(WAIT / 1000))

    def answered(self) -> None:
        """Waits until the last answer has some text and its end."""
        assert any(self.answers() and self.answers()[-1] for _ in until(WAIT / 1000))
        self.finished()

    def answers(self) -> list[str]:
        """Those that are shown, in their order, as the model wrote them: Markdown looks different."""
        script = """async () => {
            const { exchanges, currentVersion } = await import(new URL("static/js/conversation.js", location));
            return exchanges().flatMap((one) => currentVersion(one)?.samples.map(({ text }) => text) ?? []);
        }"""
        told: list[str] = self.page.evaluate(script)
        return told

    def click(self, name: str) -> None:
        """A button by its name."""
        self.page.get_by_role("button", name=name, exact=True).last.click()

    def notice(self) -> Any:
        return self.page.locator("#notice")

    def sends(self) -> int:
        return sum(address.endswith("/completions") for address in self.asked)
