"""A checkpoint's tokenizer and template are programs of strangers: what they cost is bounded, and only who asks pays."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from export.text.tokenizers import of_characters
from gateway.errors import InvalidRequest
from gateway.text.grammar import Grammar
from gateway.text.model import Model
from gateway.text.prompt_encoder import PromptEncoder, pack, unpack
from serve.processes import children
from tests.gateway.text.test_tokenizer import ENDLESS, TOKENIZER, TOKENIZER_JSON

TEXTS = ["", "Hello, 世界 🙂", "<|endoftext|>", "a" * 10_000]


def changed(**parts: Any) -> str:
    return json.dumps(json.loads(TOKENIZER_JSON) | parts)


def growing() -> str:
    """Of each x a megabyte."""
    return changed(normalizer={"type": "Replace", "pattern": {"String": "x"}, "content": "y" * (1 << 20)})


def exploding() -> str:
    """A regular expression whose time doubles with each a."""
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+c"}, "behavior": "Isolated", "invert": False}
    return changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, json.loads(TOKENIZER_JSON)["pre_tokenizer"]]})


def encoded(prompts: PromptEncoder, text: str) -> list[int]:
    return prompts.encode(text, param="prompt", add_special_tokens=True)


@pytest.fixture(scope="module")
def prompts() -> PromptEncoder:
    return PromptEncoder(TOKENIZER_JSON, "{{ messages[0].content }}")


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_texts_are_those_of_the_tokenizer_itself(prompts: PromptEncoder, text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert encoded(prompts, text) == tokens
    conversation = [{"role": "user", "content": text}]
    assert prompts.encode_conversation(conversation, param="messages", add_generation_prompt=True) == tokens
    assert prompts.decode(tokens, param="tokens") == text
    assert unpack(pack(tokens)) == tokens


def test_a_template_reads_the_requests_own_variables() -> None:
    prompts = PromptEncoder(TOKENIZER_JSON, "{% if enable_thinking is false %}Short: {% endif %}{{ messages[0].content }}")
    messages = [{"role": "user", "content": "Hello"}]
    for variables, text in (
        (None, "Hello"),
        ({"enable_thinking": True}, "Hello"),
        ({"enable_thinking": False}, "Short: Hello"),
    ):
        tokens = prompts.encode_conversation(messages, None, variables, param="messages", add_generation_prompt=True)
        assert prompts.decode(tokens, param="tokens") == text


def test_a_character_that_a_model_of_characters_lacks_is_named_with_its_place_and_with_those_it_has() -> None:
    characters = PromptEncoder(of_characters({"a": 0, "\n": 1, "b": 2}).tokenizer_json, "{{ messages[0].content }}")
    with pytest.raises(InvalidRequest) as refused:
        characters.encode("ab\u202ea", param="input", add_special_tokens=True)
    assert refused.value.param == "input"
    known = r"which is not in this model's vocabulary of 3 characters: '\nab'"
    assert refused.value.message == rf"input: holds '\u202e' (U+202E) at position 2, {known}"
    with pytest.raises(InvalidRequest) as refused:
        conversation = [{"role": "user", "content": "é"}]
        characters.encode_conversation(conversation, param="messages", add_generation_prompt=True)
    assert refused.value.message == f"messages: holds 'é' (U+00E9), {known}"
    many = PromptEncoder(of_characters({chr(0x4E00 + number): number for number in range(5000)}).tokenizer_json, None)
    with pytest.raises(InvalidRequest, match="of 5000 characters: '一.*'…$") as refused:
        encoded(many, "x" * 100_000)
    assert len(refused.value.message) < 300


def test_half_of_a_surrogate_pair_is_named_with_its_field(prompts: PromptEncoder) -> None:
    with pytest.raises(InvalidRequest, match="^input: holds half of a surrogate pair") as refused:
        prompts.encode("a\ud800", param="input", add_special_tokens=True)
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("tokenizer_json", "text"), [(growing(), "x" * 60), (exploding(), "a" * 60 + "bc")], ids=["memory", "time"]
)
def test_a_tokenizer_without_bounds_refuses_its_text_and_goes_on_with_others(tokenizer_json: str, text: str) -> None:
    prompts = PromptEncoder(tokenizer_json, None)
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        asked = threads.submit(encoded, prompts, text)
        time.sleep(0.1)  # it has the first process
        assert encoded(prompts, "Hello") == TOKENIZER.encode("Hello")  # in the second
        refused = asked.exception()
    assert isinstance(refused, InvalidRequest) and refused.param == "prompt"
    # Ours or the regular expressions' own bound, whichever is reached first.
    assert refused.message.startswith("prompt: this model's tokenizer cannot ")
    assert encoded(prompts, "Hello") == TOKENIZER.encode("Hello")
    assert time.monotonic() - began < 15  # two seconds of processor time, on a busy machine


def test_a_template_without_end_is_named_with_its_field() -> None:
    prompts = PromptEncoder(TOKENIZER_JSON, ENDLESS)
    with pytest.raises(InvalidRequest, match="^input: this model's chat template cannot render them within its bounds"):
        prompts.encode_conversation([], param="input", add_generation_prompt=True)


def test_a_text_in_memory_lets_other_threads_run() -> None:
    """`Tokenizer.encode` of the library would hold all of them up for seconds."""
    over, worst = threading.Event(), 0.0

    def watch() -> None:
        nonlocal worst
        last = time.monotonic()
        while not over.wait(0.001):
            worst, last = max(worst, time.monotonic() - last), time.monotonic()

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    TOKENIZER.encode("1 " * 500_000)
    took = time.monotonic() - began
    over.set()
    watching.join()
    assert worst < took / 2


def test_a_model_that_was_started_has_its_process_before_the_first_prompt_and_none_once_it_is_closed() -> None:
    before = set(children(os.getpid()))
    parameters = {"checkpoint": "a", "created": "0", "context_length": "8", "candidates": "1", "vocabulary_size": "300"}
    parameters |= {"slots": "1", "joined_tokens": "8", "run_ahead": "64", "end_tokens": "0", "fingerprint": ""}
    description = {"parameters": parameters, "tokenizer": TOKENIZER_JSON, "chat_template": None}
    model = Model.from_description("a", "1", json.dumps(description).encode())
    assert not set(children(os.getpid())) - before
    model.start()
    assert wait_for_children(before, 1)
    model.compile_grammar(Grammar("regex", "a+"))
    assert wait_for_children(before, 2)
    showing = model.grammars.showing(frozenset({0}))
    showing.compile(Grammar("regex", "b+"))
    assert wait_for_children(before, 3)
    model.close()
    assert wait_for_children(before, 0)  # the first may just be answering
    for late in (showing, model.grammars.showing(frozenset({0}))):
        late.compile(Grammar("regex", "c+"))
        assert wait_for_children(before, 0)


def wait_for_children(before: set[int], count: int) -> bool:
    """Whether this process soon has ``count`` children more than those of ``before``."""
    for _ in range(1000):
        if len(set(children(os.getpid())) - before) == count:
            return True
        time.sleep(0.01)
    return False
