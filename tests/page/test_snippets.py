"""The request as code: what is shown runs as it is, and gives the page's own answer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.missing import missing
from tests.page.visitor import Visitor

Visit = Callable[..., Visitor]
RUN = {
    "curl": ["bash", "request.sh"],
    "python": [sys.executable, "request.py"],
    "javascript": ["node", "request.mjs"],
}


@pytest.mark.parametrize("mode", ["chat", "complete"])
@pytest.mark.parametrize("language", RUN)
def test_the_code_gives_the_pages_answer(visit: Visit, tmp_path: Path, api_key: str, language: str, mode: str) -> None:
    if shutil.which(RUN[language][0]) is None:
        message = f"no {RUN[language][0]} here, the code was NOT run"
        missing(message)
    visitor = visit()
    visitor.mode(mode)
    visitor.set(max_tokens=10, ignore_eos=True, top_k=20, seed=7, stop="\"'\n\\", logit_bias="5: -100")
    prompt = 'It\'s "quoted" — 你好 $HOME `ls` \\n'
    visitor.box().fill(prompt)
    code = code_for(visitor, language)
    visitor.click("Close")
    visitor.send(prompt)
    assert api_key not in code
    (tmp_path / RUN[language][1]).write_text(code)
    env = os.environ | {"TIDEGATE_API_KEY": api_key}
    done = subprocess.run(RUN[language], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    told = text_of(done.stdout) if language == "curl" else done.stdout.removesuffix("\n")
    assert told == visitor.answers()[0]


def code_for(visitor: Visitor, language: str) -> str:
    visitor.page.click("#code")
    visitor.page.locator(f"input[value={language}]").check(force=True)
    code: str = visitor.page.locator("#snippet").text_content()
    return code


def text_of(stream: str) -> str:
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def test_the_code_is_of_what_is_in_the_box_and_can_be_copied(visit: Visit) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    visitor.box().fill("What is written here")
    code = code_for(visitor, "python")
    assert "What is written here" in code
    visitor.click("Copy")
    visitor.page.get_by_text("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == code
    visitor.click("Close")
    assert visitor.page.locator("#code-dialog").is_hidden()
