"""Grammars that take much work harm nobody: an answer comes soon, memory stays, and other grammars are compiled meanwhile."""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from gateway.errors import InvalidRequest, TidegateError
from gateway.text.grammar import Grammar, GrammarCompiler
from tests.gateway.grammars import COMPILER, END, SIZE, TOKENIZER, walk

MEMORY = 200 << 20
SOON = 5.0  # seconds


def schema(**parts: object) -> Grammar:
    return Grammar("json_schema", json.dumps(parts))


HOSTILE = {
    "divisible by a large number": schema(type="integer", multipleOf=4999999),
    "divisible by another": schema(type="integer", multipleOf=1999993),
    "divisible, within Lark": Grammar("lark", 'start: %json {"type": "integer", "multipleOf": 4999999}'),
    "divisible by many": schema(properties={f"k{i}": {"type": "integer", "multipleOf": 97 + i} for i in range(300)}),
    "repeated repetition": Grammar("regex", "(a{1000}){1000}"),
    "nested repetition": Grammar("regex", "((((a{1,20}){1,20}){1,20}){1,20}){1,20}b"),
    "many options": Grammar("regex", "a?" * 2000 + "a{2000}"),
    "exponential states": Grammar("regex", "(.*a.{15}|.*b.{16}|.*c.{17})x"),
    "classes of Unicode": Grammar("regex", r"(\p{L}|\p{N}|\p{S}|\p{P}){1,3000}(\w|\d){1,3000}"),
    "many alternatives": Grammar("regex", "|".join(f".*{i:07}" for i in range(700))),
    "a complement": Grammar("lark", "start: W\nW: ~/(.*a.{12}.*)/ & /.*b.{12}/"),
    "intersections": Grammar("lark", "start: W\nW: " + " & ".join(f"/(.*{a}.{{9}})+.*/" for a in "abcdefghij")),
    "an ambiguous grammar": Grammar("lark", 'start: a\na: a a a | a a | "x" | "xx" | /x+y?/ |'),
    "doubling rules": Grammar(
        "lark", "start: a0\n" + "\n".join(f"a{i}: a{i + 1} a{i + 1} |" for i in range(40)) + '\na40: "x" |'
    ),
    "doubling references": schema(
        **{"$ref": "#/$defs/d0"},
        **{"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": {"type": "string"}}},
    ),
    "deep nesting": Grammar("json_schema", '{"items":' * 2000 + "{}" + "}" * 2000),
    "deep groups": Grammar("regex", "(" * 3000 + "a" + ")" * 3000),
    "itself": Grammar("json_schema", '{"$ref": "#"}'),
    "nothing": Grammar("regex", r"[^\s\S]"),
    "more than it may have": schema(type="string", minLength=5, maxLength=2),
    "a hundred million items": schema(type="array", minItems=100_000_000),
    "a hundred million characters": schema(type="string", minLength=100_000_000),
    "half a pair": Grammar("regex", "\ud800"),
    "a lookahead": Grammar("regex", "(?=a)b"),
}


@contextmanager
def memory_watched() -> Iterator[list[int]]:
    """The most that this process and its children have held more than in the beginning, in bytes."""
    ours = psutil.Process(os.getpid())

    def held() -> int:
        total = ours.memory_info().rss
        for child in ours.children():
            try:
                total += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    began, most, over = held(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], held() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
def test_hostile_grammar_is_refused_in_a_sentence_or_harmless(grammar: Grammar) -> None:
    with memory_watched() as most:
        began = time.monotonic()
        try:
            matcher = COMPILER.compile(grammar)
            walk(matcher, 1, 50)
        except InvalidRequest as refused:
            assert refused.message and len(refused.message) < 500 and "src/" not in refused.message
        assert time.monotonic() - began < SOON
    assert most[0] < MEMORY


def test_refused_grammar_is_refused_at_once_the_next_time() -> None:
    grammar = HOSTILE["divisible by a large number"]
    with pytest.raises(InvalidRequest, match="time or memory"):
        COMPILER.compile(grammar)
    began = time.monotonic()
    with pytest.raises(InvalidRequest, match="time or memory"):
        COMPILER.known(grammar)
    assert time.monotonic() - began < 0.1
    assert COMPILER.known(Grammar("regex", "never asked for")) is None


def test_grammar_is_compiled_while_another_one_takes_all_the_time_that_it_may() -> None:
    with ThreadPoolExecutor(1) as threads:
        for end in "vwxyz":  # the slow one may meet its bound of memory early
            outcome(Grammar("regex", f"ready {end}"))  # a process is warm
            under_way = threads.submit(outcome, Grammar("regex", "(.*a.{15}|.*b.{16}|.*c.{17})" + end))
            time.sleep(0.02)
            assert outcome(Grammar("regex", f"some other {end}")) is None
            if not under_way.done():
                return
    raise AssertionError("it came after the slow one each time")


def outcome(grammar: Grammar) -> InvalidRequest | None:
    try:
        COMPILER.compile(grammar)
    except InvalidRequest as refused:
        return refused
    return None


def test_those_that_wait_hold_little() -> None:
    """A matcher without a text has nothing compiled: a thousand would be a gigabyte."""
    large = {f"property_number_{i}": {"type": "string", "pattern": f"^[a-z]{{{i}}}x"} for i in range(300)}
    COMPILER.compile(schema(type="object", properties=large))
    with memory_watched() as most:
        waiting = [COMPILER.compile(schema(type="object", properties=large)) for _ in range(1000)]
        time.sleep(0.05)
    assert len(waiting) == 1000 and most[0] < 20 << 20


def test_failure_within_the_library_is_an_error_of_its_text_alone() -> None:
    matcher = COMPILER.compile(Grammar("regex", "[a-f]+x"))
    state, other = matcher.copy(), matcher.copy()
    with pytest.raises(TidegateError):
        state.advance(TOKENIZER.encode("7")[0], 5000)  # not allowed
    with pytest.raises(TidegateError):
        state.allowed()
    assert other.allowed().any() and other.advance(TOKENIZER.encode("a")[0], 50)


def test_vocabulary_with_tokens_of_nothing_is_no_hindrance() -> None:
    compiler = GrammarCompiler(TOKENIZER, SIZE + 7, frozenset({END}))  # padded, as many checkpoints are
    allowed = compiler.compile(Grammar("json_object")).copy().allowed()
    assert allowed.shape == (SIZE + 7,) and not allowed[SIZE:].any() and allowed.dtype == np.bool_
