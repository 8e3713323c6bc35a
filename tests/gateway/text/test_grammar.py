"""Constrained decoding without a model: random tokens that the mask allows always make a text that parses and validates."""

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.text import tokenizers as exported
from gateway.errors import InvalidRequest
from gateway.text.grammar import Grammar, GrammarCompiler
from gateway.text.tokenizer import Tokenizer
from tests.gateway.grammars import COMPILER, END, TOKENIZER, walk

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 40}, "minItems": 2, "maxItems": 5},
    {"enum": ["red", "green", 7, None]},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "born": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]+d$"}, "minItems": 1},
            "inner": {
                "anyOf": [{"type": "null"}, {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}}]
            },
        },
        "required": ["name", "age", "born", "tags", "inner"],
        "additionalProperties": False,
    },
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:30])
def test_random_tokens_make_valid_json(schema: dict[str, Any]) -> None:
    matcher = COMPILER.compile(Grammar("json_schema", json.dumps(schema)))
    for seed in range(12):
        text, _ = walk(matcher, seed, 150)
        jsonschema.validate(json.loads(text), schema)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 80))
def test_text_is_whole_within_any_number_of_tokens_that_can_hold_it(seed: int, tokens: int) -> None:
    assert isinstance(json.loads(walk(COMPILER.compile(Grammar("json_object")), seed, tokens)[0]), dict)


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", "(yes|no)( maybe)?", "[a-f]+x", "a+b", "你好|世界", ".{5,10}"])
def test_random_tokens_match_the_regular_expression(pattern: str) -> None:
    matcher = COMPILER.compile(Grammar("regex", pattern))
    for seed in range(10):
        assert re.fullmatch(pattern, walk(matcher, seed, 60)[0])


@pytest.mark.parametrize(("properties", "tokens"), [(20, 300), (20, 1500), (60, 1000)])
def test_long_schemas_are_completed_too(properties: int, tokens: int) -> None:
    names = [f"property_number_{number}" for number in range(properties)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    text, _ = walk(COMPILER.compile(Grammar("json_schema", json.dumps(schema))), 3, tokens)
    jsonschema.validate(json.loads(text), schema)


def test_schema_cannot_be_evaded_by_an_escaped_name() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    state = COMPILER.compile(Grammar("json_schema", json.dumps(schema))).copy()
    taken = b""
    for token in TOKENIZER.encode(r'{"\u0061":"x"}'):
        if not state.allowed()[token]:
            break
        state.advance(token, 2000)
        taken += TOKENIZER.token_bytes(token)
    assert b"u0061" not in taken


def test_schema_cannot_make_the_library_lenient() -> None:
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        COMPILER.compile(Grammar("json_schema", '{"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}}'))


def test_random_tokens_follow_the_lark_grammar() -> None:
    grammar = 'start: sum\nsum: number ("+" number)*\nnumber: /[0-9]{1,3}/ | "(" sum ")"'
    matcher = COMPILER.compile(Grammar("lark", grammar))
    for seed in range(10):
        text, _ = walk(matcher, seed, 40)
        assert re.fullmatch(r"[0-9()+]+", text) and eval(re.sub(r"\b0+(?=\d)", "", text)) >= 0


def test_text_that_can_go_no_further_ends_without_an_end_token() -> None:
    matcher = COMPILER.compile(Grammar("regex", "yes"))
    state = matcher.copy()
    assert not state.complete
    for token in TOKENIZER.encode("yes"):
        assert state.allowed()[token]
        assert state.advance(token, 9) == token
    assert state.complete
    assert not matcher.complete  # a copy is a text of its own


def test_end_tokens_are_allowed_where_and_only_where_the_text_may_end() -> None:
    state = COMPILER.compile(Grammar("regex", "ab?")).copy()
    assert not state.allowed()[END]
    state.advance(TOKENIZER.encode("a")[0], 9)
    assert state.allowed()[END]


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": "foo"}'),
        Grammar("json_schema", "no json"),
        Grammar("json_schema", '{"$ref": "http://example.org/schema"}'),
        Grammar("json_schema", '{"type": "object", "unevaluatedProperties": false}'),
        Grammar("json_schema", "false"),
        Grammar("regex", "(a"),
        Grammar("regex", "(?=a)b"),
        Grammar("lark", "start: nowhere"),
        Grammar("lark", ""),
    ],
    ids=lambda grammar: f"{grammar.kind} {grammar.text[:25]}",
)
def test_unusable_grammar_is_refused_in_a_sentence(grammar: Grammar) -> None:
    with pytest.raises(InvalidRequest) as refused:
        COMPILER.compile(grammar)
    assert refused.value.param == "response_format" and refused.value.message.startswith("response_format: ")
    assert len(refused.value.message) < 500 and "src/" not in refused.value.message


def test_vocabulary_that_cannot_write_json_is_told(tmp_path: Any) -> None:
    import pickle

    letters = "abc \n"
    meta = tmp_path / "meta.pkl"
    meta.write_bytes(pickle.dumps({"stoi": {c: i for i, c in enumerate(letters)}, "itos": dict(enumerate(letters))}))
    compiler = GrammarCompiler(Tokenizer(exported.characters(meta).tokenizer_json, None), len(letters), frozenset())
    with pytest.raises(InvalidRequest, match="vocabulary"):
        compiler.compile(Grammar("json_object"))
    state = compiler.compile(Grammar("regex", "(ab)+c")).copy()
    assert np.flatnonzero(state.allowed()).tolist() == [letters.index("a")]


@pytest.mark.parametrize("text", ["Hello, wörld! 你好 🙂\n\t\x00", " leading", "trailing ", ""])
def test_bytes_of_tokens_joined_are_the_text(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert b"".join(map(TOKENIZER.token_bytes, tokens)) == text.encode()


def test_bytes_of_sentencepiece_tokens_are_spaces_and_bytes() -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import decoders, models

    vocabulary = {"<unk>": 0, "<0xE4>": 1, "▁the": 2, "s": 3}
    tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    ours = Tokenizer(tokenizer.to_str(), None)
    assert [ours.token_bytes(token) for token in range(5)] == [b"<unk>", b"\xe4", b" the", b"s", b""]


def test_a_special_tokens_name_is_written_as_plain_text() -> None:
    """The tokenizer itself would make the token of it, which ends an answer."""
    for grammar, text in (
        (Grammar("lark", 'start: "a<|endoftext|>b"'), "a<|endoftext|>b"),
        (Grammar("regex", r"a<\|endoftext\|>"), "a<|endoftext|>"),
        (Grammar("json_schema", '{"const": "<|endoftext|><|endoftext|>"}'), '"<|endoftext|><|endoftext|>"'),
    ):
        assert walk(COMPILER.compile(grammar), 1, 60) == (text, True)
