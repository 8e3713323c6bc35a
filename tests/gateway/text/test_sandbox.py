"""Processes with bounds: they come to harm, we do not. Chat templates and tokenizers are the programs that run in them here."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.text.prompt_encoder import unpack
from gateway.text.sandbox import BoundExceeded, Sandbox
from serve.processes import children, is_alive
from tests.gateway.text.test_tokenizer import TOKENIZER, TOKENIZER_JSON

CONTENT = "Hello\u2028 世界"
ECHO = "{{ messages[0].content }}"


def sandbox(template: str, processes: int = 1) -> Sandbox:
    setup = {"tokenizer": TOKENIZER_JSON, "chat_template": template}
    return Sandbox("gateway.text.prompt_process", setup, seconds=0.3, memory=64 << 20, processes=processes)


def ask(asked: Sandbox, content: str = CONTENT, add_generation_prompt: bool = True) -> list[int]:
    question = {"messages": [{"role": "user", "content": content}], "add_generation_prompt": add_generation_prompt}
    return unpack(asked.ask(question | {"param": "messages"})["tokens"])


def new_child(before: set[int]) -> int:
    (pid,) = children(os.getpid()).keys() - before
    return pid


def test_process_is_kept_and_one_that_was_killed_is_begun_again_and_it_ends_with_its_sandbox() -> None:
    before = set(children(os.getpid()))
    asked = sandbox(ECHO, processes=2)
    for _ in range(3):
        assert ask(asked) == TOKENIZER.encode(CONTENT)
    first = new_child(before)
    os.kill(first, signal.SIGKILL)
    while is_alive(first):
        time.sleep(0.01)
    assert ask(asked) == TOKENIZER.encode(CONTENT)
    second = new_child(before | {first})
    del asked
    assert not is_alive(second)


def test_closed_sandbox_has_no_process_and_answers_a_late_question_with_one_that_ends() -> None:
    before = set(children(os.getpid()))
    asked = sandbox(ECHO, processes=2)
    asked.close()  # none has begun
    assert ask(asked) == TOKENIZER.encode(CONTENT)
    assert not set(children(os.getpid())) - before


def test_sandbox_that_is_closed_during_a_question_answers_it_and_ends_its_process() -> None:
    before = set(children(os.getpid()))
    asked = sandbox(ECHO, processes=2)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, asked)
        while not set(children(os.getpid())) - before:
            time.sleep(0.01)
        asked.close()
        assert not answer.done() and answer.result() == TOKENIZER.encode(CONTENT)
    assert not set(children(os.getpid())) - before


@pytest.mark.parametrize(
    "template",
    ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{% set x = 9**(9**9) %}"],
)
def test_question_without_end_ends_its_process_and_the_next_one_is_answered(template: str) -> None:
    asked = sandbox("{% if add_generation_prompt %}" + template + "{% endif %}fine")
    began = time.monotonic()
    with pytest.raises(BoundExceeded):
        ask(asked)
    assert ask(asked, add_generation_prompt=False) == TOKENIZER.encode("fine")
    assert time.monotonic() - began < 20
