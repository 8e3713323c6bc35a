"""A model's chat template: from messages to the text that the model continues."""

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway import template_process
from gateway.errors import InvalidRequest

SECONDS = 2.0  # of processor time for one rendering; real templates take a millisecond
MEMORY = 256 << 20  # bytes, besides what the process takes by itself


class ChatTemplate:
    """Renders in a process of its own, begun with the first rendering and again after one that ended it: see
    gateway/template_process.py. Blocks; several threads may use it. The process ends with this object."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[str] | None = None
        self._end_process: Callable[[], object] = lambda: None
        self._rendering = threading.Lock()

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Raises InvalidRequest where the template does not render them."""
        asked = json.dumps({"messages": messages, "add_generation_prompt": add_generation_prompt})
        with self._rendering:
            answer = self._answer(asked)
        if "text" in answer:
            return answer["text"]
        if "refused" in answer:
            raise InvalidRequest(f"messages: this model's chat template refuses them: {answer['refused']}", param="messages")
        raise InvalidRequest("messages: this model's chat template cannot render them", param="messages")

    def _answer(self, asked: str) -> dict[str, str]:
        if self._process is None or self._process.poll() is not None:
            self._end_process()
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(asked, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line.endswith("\n"):  # the rendering has ended its process
            self._end_process()
            return {}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(template_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the gateway, which ends it
        )
        self._end_process = weakref.finalize(self, _end, process)
        assert process.stdin is not None
        print(json.dumps([self._source, SECONDS, MEMORY]), file=process.stdin, flush=True)
        return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # waits for it and closes its pipes
        pass
