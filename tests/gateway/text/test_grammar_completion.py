"""Constrained text ends whole before its tokens run out, whatever its patterns, and looking for its end costs little."""

import json
import re
import time
from typing import Any

import jsonschema
import numpy as np
import pytest

from gateway.text.grammar import Grammar
from tests.gateway.grammars import COMPILER, END, TOKENIZER, walk


def string(**more: Any) -> dict[str, Any]:
    return {"type": "string"} | more


MAIL = string(pattern=r"^\S+@\S+\.\S+$")
SITE = string(pattern=r"\.com$")
FORMATS = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
SCHEMAS: dict[str, Any] = {
    "three digits": string(pattern="[0-9]{3}"),
    "an ending": SITE,
    "a longer ending": string(pattern=r"\.example\.com$"),
    "three parts": MAIL,
    "words and a number": string(pattern="^([a-z]+-)+[0-9]{2}$"),
    "alternatives": string(pattern="^((ab){3}z|cd+)$"),
    "digits among others": string(pattern=r"(\d[^\d]*){5}"),
    "letters far from each other": string(pattern="A.*B.*C"),
    "a page": string(pattern=r"^https?://[^/]+/.*\.html$"),
    "an ending of a long text": string(pattern="x$", minLength=25),
    "a word in a short text": string(pattern="foo", maxLength=20),
    "a long text": string(minLength=25),
    **{form: string(format=form) for form in FORMATS},
    "choices": {"enum": ["alpha beta gamma", "delta", 5]},
    "a list": {"type": "array", "items": SITE, "minItems": 3},
    "numbers": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 5},
    "nested": {
        "type": "object",
        "properties": {"a": SITE, "b": {"type": "array", "items": MAIL, "minItems": 1}, "c": {"$ref": "#/$defs/c"}},
        "required": ["a", "b", "c"],
        "$defs": {"c": {"type": "object", "properties": {"d": string(pattern="[0-9]{3}")}, "required": ["d"]}},
    },
    "optional": {
        "type": "object",
        "properties": {"x": SITE, "y": {"type": "object", "properties": {"p": MAIL}, "required": ["p"]}},
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_text_of_a_pattern_is_whole_within_few_tokens(schema: dict[str, Any]) -> None:
    matcher = COMPILER.compile(Grammar("json_schema", json.dumps(schema)))
    for seed, (tokens, temperature) in enumerate([(40, 0.7), (40, None), (60, 1.2), (60, 2), (100, 0.7), (150, None)]):
        text, ended = walk(matcher, seed, tokens, temperature)
        assert ended, text
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("pattern", [r".*\.com", r"(?s:.){90}", "([0-9]+,)*end", r"[\p{L} ]{30,80}", "你好.*再见"])
def test_text_of_an_expression_is_whole_within_few_tokens(pattern: str) -> None:
    matcher = COMPILER.compile(Grammar("regex", pattern))
    for seed, tokens in enumerate([100, 110, 130, 150]):
        text, _ = walk(matcher, seed, tokens)
        assert re.fullmatch(pattern.replace(r"\p{L}", r"\w"), text), text


def test_statement_of_a_grammar_is_whole_within_few_tokens() -> None:
    names = "NAME: /[a-z_]+/\nNUMBER: /[0-9]+/\n"
    statement = 'start: "SELECT " list " FROM " NAME (" WHERE " NAME " = " NUMBER)?\nlist: NAME (", " NAME)*\n'
    matcher = COMPILER.compile(Grammar("lark", statement + names))
    for seed in range(6):
        text, _ = walk(matcher, seed, 40)
        assert re.fullmatch(r"SELECT [a-z_]+(, [a-z_]+)* FROM [a-z_]+( WHERE [a-z_]+ = [0-9]+)?", text), text


@pytest.mark.alone
@pytest.mark.parametrize(
    "grammar", [Grammar("regex", "(?s:.){900}"), Grammar("json_schema", json.dumps(string(minLength=900)))]
)
@pytest.mark.parametrize("tokens", [100, 1000])  # too few, and enough
def test_looking_for_a_far_end_takes_a_millisecond_a_token(grammar: Grammar, tokens: int) -> None:
    matcher = COMPILER.compile(grammar)
    chance, state, spent = np.random.default_rng(5), matcher.copy(), 0.0
    for taken in range(60):
        token = int(chance.choice(np.flatnonzero(state.allowed())))
        began = time.thread_time()
        state.advance(token, tokens - taken)
        spent += time.thread_time() - began
    assert spent < 60 * 0.008  # it took 113 ms; a busy machine is slow, and its clock of processor time coarse


def test_long_constant_costs_no_more_a_token_than_a_short_one() -> None:
    def quickest(length: int) -> float:
        state = COMPILER.compile(Grammar("json_schema", json.dumps({"const": "constant " * (length // 9)}))).copy()
        seconds = []
        for taken in range(20):
            began = time.perf_counter()
            token = int(np.flatnonzero(state.allowed())[0])
            seconds.append(time.perf_counter() - began)
            state.advance(token, 3000 - taken)
        return min(seconds)

    assert quickest(8000) < 10 * quickest(800)


def test_same_seed_gives_the_same_text_however_often_its_grammar_was_compiled() -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMAS["nested"]))
    texts = {walk(COMPILER.compile(grammar), 3, 60, 1.0) for _ in range(3)}
    assert len(texts) == 1


def test_end_token_is_the_answer_where_the_text_may_end_and_would_not_end_otherwise() -> None:
    state = COMPILER.compile(Grammar("regex", "a(bcdefghij)?")).copy()
    state.allowed()
    assert state.advance(int(np.flatnonzero(state.allowed())[0]), 2) != END
    assert state.advance(int(np.flatnonzero(state.allowed())[0]), 1) == END


def test_long_text_within_a_bound_of_its_length_is_written_on() -> None:
    """llguidance keeps a state for each length: their number is bounded."""
    schema = {"type": "object", "properties": {"a": string(maxLength=5000)}, "required": ["a"], "additionalProperties": False}
    state = COMPILER.compile(Grammar("json_schema", json.dumps(schema))).copy()
    text = '{"a": "' + "It was the best of times, it was the worst of times. " * 60
    for token in TOKENIZER.encode(text):
        assert state.allowed()[token]
        assert state.advance(token, 4000) == token


@pytest.mark.parametrize(
    "pattern",
    ["([a-z]+=[a-z]+\n){3}end", r"(\| [a-z]+ \| [a-z]+ \|\n){2}END", "<think>(?s:.*)</think>(yes|no)"],
)
def test_text_of_parts_that_only_another_character_ends_is_whole(pattern: str) -> None:
    matcher = COMPILER.compile(Grammar("regex", pattern))
    for tokens in (25, 60):
        for seed in range(4):
            assert re.fullmatch(pattern, walk(matcher, seed, tokens, 1.0)[0])


def test_text_of_a_grammar_ends_with_its_literal() -> None:
    grammar = 'start: (KEY "=" VAL "\\n")+ "done"\nKEY: /[a-z_]+/\nVAL: /[^\\n]+/'
    matcher = COMPILER.compile(Grammar("lark", grammar))
    for seed in range(4):
        assert re.fullmatch(r"([a-z_]+=[^\n]+\n)+done", walk(matcher, seed, 25, 1.0)[0])
