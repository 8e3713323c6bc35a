"""Tries a grammar in a resource-limited process. gateway/text/grammar.py runs it through gateway/text/sandbox.py.

A grammar is a program that came with a request. Most compile in a millisecond, but even short ones can take minutes or
gigabytes. The trial compiles it, starts an output and searches for ways to its end; only then does the gateway compile it.

Question: ``{"kind": …, "text": …}``. Answer: ``{"ways": … in Latin-1, "hints": …}`` as in `Ways`, or ``{"refused": why}``.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import llguidance

from gateway.text.grammar_completion import FIRST_SEARCH, LONGEST_WAY, Search, Work
from gateway.text.grammar_library import Grammar, Vocabulary
from gateway.text.tool_grammar import ToolGrammar

TRIAL, LEAST_TRIAL = 48, 8  # tokens of a trial output
MASK_SECONDS = 0.004  # processor time allowed per mask, averaged over the trial
TOO_MUCH_WORK = "it takes too much work a token, or this model's vocabulary has no token that may come next"
# Limits of hints: patterns examined per grammar, characters of an example, and hints in total.
PATTERNS, LONGEST_EXAMPLE, HINTS = 32, 64, 128
EXAMPLE_WORK = 100_000
LARK_STRING, LONGEST_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)+"'), 16
LARK_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)+)/")


def prepare(setup: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``setup``: the vocabulary, ``{"texts": [… in Latin-1], "special": [token, …], "end_tokens": whether there are any}``."""
    vocabulary = Vocabulary.of([text.encode("latin-1") for text in setup["texts"]], setup["special"])

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return tried(vocabulary, Grammar(asked["kind"], asked["text"]), ends=setup["end_tokens"])
        except ValueError as error:
            return {"refused": str(error)}
        except BaseException:  # a panic of the library, or out of memory
            return {"refused": TOO_MUCH_WORK}

    return answer


def tried(vocabulary: Vocabulary, grammar: Grammar, *, ends: bool) -> dict[str, Any]:
    """Tries a grammar and returns the answer. Raises ValueError with a reason if it cannot be used."""
    start = vocabulary.compile(grammar)
    allowed = _allowed(vocabulary, start)
    if not allowed and not (ends and start.is_accepting()):
        raise ValueError("this model's vocabulary has no token that it could begin with")
    starts = _starts(vocabulary, grammar, start)
    for state in starts.values():  # before the search: copies share the states of the library's automaton
        _begin(vocabulary, state, random.Random(0), max(LEAST_TRIAL, TRIAL // len(starts)))
    hints, ways = _hints(vocabulary, grammar), list[bytes]()
    for head, state in starts.items():
        work = Work(FIRST_SEARCH // len(starts))
        way = Search(vocabulary, hints, vocabulary.closing(grammar.kind), work).from_here(state, LONGEST_WAY)
        ways += [] if way is None else [head + way]
    return {"ways": [way.decode("latin-1") for way in sorted(ways, key=len)], "hints": hints}


def _starts(vocabulary: Vocabulary, grammar: Grammar, start: llguidance.LLMatcher) -> dict[bytes, llguidance.LLMatcher]:
    """Returns the states from which to try outputs: for tools, at the start of each tool's arguments."""
    if grammar.kind != "tools":
        return {b"": start}
    starts = {head.encode(): start.deep_copy() for head in ToolGrammar(grammar.text).heads()}
    for head, state in starts.items():
        if not (tokens := vocabulary.spelled(head)) or not state.consume_tokens(tokens):
            raise ValueError("this model's vocabulary cannot write it")
    return starts


def _begin(vocabulary: Vocabulary, start: llguidance.LLMatcher, chance: random.Random, tokens: int) -> None:
    """Generates random tokens, as at a high temperature. Raises ValueError if that is too much work."""
    state, masks, began = start.deep_copy(), 0, time.process_time()
    while masks < tokens and not state.is_stopped():
        allowed, masks = _allowed(vocabulary, state), masks + 1
        if not allowed:
            if state.is_accepting():
                break
            raise ValueError(TOO_MUCH_WORK)
        chosen = chance.randrange(vocabulary.end)
        behind = allowed >> chosen << chosen or allowed
        if not state.consume_token((behind & -behind).bit_length() - 1):
            raise ValueError(TOO_MUCH_WORK)
    if time.process_time() - began > MASK_SECONDS * max(tokens // 2, masks):
        raise ValueError(TOO_MUCH_WORK)


def _allowed(vocabulary: Vocabulary, state: llguidance.LLMatcher) -> int:
    """Returns a bit mask of the tokens that may come next."""
    mask = int.from_bytes(state.compute_bitmask(), "little")
    if state.is_error():
        raise ValueError(TOO_MUCH_WORK)
    return mask & ~(1 << vocabulary.end)


def _hints(vocabulary: Vocabulary, grammar: Grammar) -> list[list[int]]:
    """Returns the suffixes of a short example of each pattern, and of each literal: whatever an output has so far, one of them
    usually completes it."""
    found: dict[bytes, None] = {}
    for make in list(_patterns(grammar))[:PATTERNS]:
        example = _example(vocabulary, make)
        if grammar.kind in ("json_schema", "tools"):
            example = example[1:-1]  # without its quotes
        found |= dict.fromkeys(example[begin:] for begin in range(len(example)))
    for literal in _literals(grammar):
        found |= dict.fromkeys(literal[begin:] for begin in range(len(literal)))
    hints = [vocabulary.spelled(text) for text in sorted(found, key=len)[:HINTS]]
    return [hint for hint in hints if hint]


def _patterns(grammar: Grammar) -> Iterator[Callable[[int], Grammar]]:
    """Yields, for each pattern, a function that returns a grammar of its texts with at most the given number of characters."""
    match grammar.kind:
        case "json_schema":
            yield from (partial(_short_string, schema) for schema in dict.fromkeys(_strings(json.loads(grammar.text))))
        case "regex":
            yield partial(_short_text, llguidance.regex_to_lark(grammar.text, ""))
        case "tools":
            schemas = ToolGrammar(grammar.text).schemas.values()
            strings = (text for schema in schemas for text in _strings(schema))
            yield from (partial(_short_string, schema) for schema in dict.fromkeys(strings))
        case "lark":
            yield from (partial(_short_text, regex) for regex in dict.fromkeys(LARK_REGEX.findall(grammar.text)))


def _literals(grammar: Grammar) -> Iterator[bytes]:
    """Yields the short literals of a Lark grammar, which an output may have to end with."""
    for text in dict.fromkeys(LARK_STRING.findall(grammar.text)) if grammar.kind == "lark" else ():
        with suppress(ValueError):
            literal = json.loads(text).encode()
            if len(literal) <= LONGEST_LITERAL:
                yield literal


def _strings(schema: object) -> Iterator[str]:
    """Yields the string schemas within ``schema`` that restrict how a string may end."""
    if isinstance(schema, dict):
        own = {name: schema[name] for name in ("pattern", "format", "minLength") if name in schema}
        if own:
            yield json.dumps(own)
        if isinstance(names := schema.get("patternProperties"), dict):
            yield from (json.dumps({"pattern": name}) for name in names)
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _strings(part)


def _short_string(schema: str, length: int) -> Grammar:
    return Grammar("json_schema", json.dumps({"type": "string", "maxLength": length} | json.loads(schema)))


def _short_text(regex: str, length: int) -> Grammar:
    return Grammar("lark", f"start: TEXT\nTEXT: /{regex}/ & /(?s:.{{0,{length}}})/")


def _example(vocabulary: Vocabulary, make: Callable[[int], Grammar]) -> bytes:
    """Returns a text of a pattern, about as short as possible; empty if none is short enough."""
    length, text = 1, b""
    while length <= LONGEST_EXAMPLE and not text:
        text = _any_text(vocabulary, make(length))
        length *= 2
    for shorter in range(length // 4 + 1, length // 2) if text else ():
        if better := _any_text(vocabulary, make(shorter)):
            return better
    return text


def _any_text(vocabulary: Vocabulary, grammar: Grammar) -> bytes:
    """Returns the text that the search finds. The grammar must have no long texts."""
    try:
        start = vocabulary.compile(grammar)
    except ValueError:  # nothing is that short
        return b""
    search = Search(vocabulary, [], vocabulary.end, Work(EXAMPLE_WORK), plain=True)
    return search.from_here(start, LONGEST_EXAMPLE) or b""
