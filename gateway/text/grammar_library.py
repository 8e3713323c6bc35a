"""The use of llguidance shared by the gateway and its sandbox: grammars in the library's form, work limits, a vocabulary.

Does not import numpy, which would take memory in every sandbox process.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import llguidance

from gateway.text.tool_grammar import ToolGrammar

WHITESPACE = r"\n? {0,12}"  # between JSON's parts: enough to indent; unlimited, a model at high temperature writes nothing else
# Limits of compilation and of a step, a few times what ordinary schemas need. llguidance's defaults allow seconds.
LIMITS = llguidance.LLParserLimits(
    max_grammar_size=100_000,
    max_lexer_states=50_000,
    initial_lexer_fuel=100_000,
    step_lexer_fuel=150_000,
    verbose_errors=False,
)
# Options that a schema may not set itself. Only some escapes are allowed: an escaped name would be an unknown property.
JSON_RULES: Any = {
    "whitespace_pattern": WHITESPACE,
    "json_allowed_escapes": '"\\bfnrt',
    "lenient": False,
    "coerce_one_of": False,
}
# Closing tokens, then short values: tried in this order to complete an output in few tokens.
CLOSERS = [b"}", b"]", b")", b'"', b":", b",", b"0", b"1", b"null", b"true", b"a", b"{", b"[", b" "]
TEXT_CLOSERS = [b'"', b"a", b"1", b"0", b" "]  # the same inside a quoted string
FORCED = 32  # forced characters to tokenize; only their first token is used at each step
PLAIN_FIRST = sorted(range(256), key=lambda byte: (not chr(byte).isalnum() or byte > 127, byte))

Encode = Callable[[str], list[int]]
Kind = Literal["json_object", "json_schema", "regex", "lark", "tools"]


@dataclass(frozen=True)
class Grammar:
    """``text``: a JSON schema, a regular expression (Rust's syntax), a grammar in llguidance's Lark, or the output of
    tool_grammar.py for tools; "" for "json_object"."""

    kind: Kind
    text: str = ""


@dataclass(frozen=True)
class Vocabulary:
    trie: llguidance.LLTokenizer
    end: int  # llguidance's own end token, which is not the model's: the last bit of its masks
    closers: list[int]  # those of CLOSERS and TEXT_CLOSERS that are tokens
    text_closers: list[int]
    single_bytes: dict[int, int]  # byte → its token, if it has one; letters and digits first

    @classmethod
    def of(cls, texts: list[bytes], special: Iterable[int], encode: Encode | None = None) -> "Vocabulary":
        """``texts``: the bytes of each token. ``encode``: the model's own encoding, which forced text follows; without it,
        forced text is cut greedily into the longest tokens."""
        unusable = set(special)
        wanted = _Tokens(texts, sorted(unusable), encode)
        trie = llguidance.LLTokenizer(llguidance.TokenizerWrapper(wanted), slices=[])  # slices cost more time than they save
        wanted.greedy = trie.greedy_tokenize
        wanted.encode = encode or wanted.greedy
        token_of = {text: token for token, text in reversed(list(enumerate(texts))) if token not in unusable}
        return cls(
            trie=trie,
            end=len(texts),
            closers=[token_of[text] for text in CLOSERS if text in token_of],
            text_closers=[token_of[text] for text in TEXT_CLOSERS if text in token_of],
            single_bytes={byte: token_of[bytes([byte])] for byte in PLAIN_FIRST if bytes([byte]) in token_of},
        )

    def compile(self, grammar: Grammar) -> llguidance.LLMatcher:
        """Compiles a grammar. Raises ValueError with the library's own message, which concerns only the grammar."""
        matcher = llguidance.LLMatcher(self.trie, _source(grammar), log_level=0, limits=LIMITS)
        if reason := matcher.get_error().partition("<non-verbose/>")[0].strip():
            raise ValueError(reason)
        return matcher

    def closing(self, kind: Kind) -> int:
        """Returns the token after a lexeme: a string's quote in JSON, else the end token."""
        return self.single_bytes.get(ord('"'), self.end) if kind not in ("regex", "lark") else self.end

    def spelled(self, text: bytes) -> list[int]:
        """Returns one token per byte; if a byte has no token, cuts greedily into the longest tokens instead."""
        if all(byte in self.single_bytes for byte in text):
            return [self.single_bytes[byte] for byte in text]
        return self.cut(text)

    def cut(self, text: bytes) -> list[int]:
        """Cuts greedily into the longest tokens, up to a partial character. Empty if the vocabulary cannot write the text."""
        tokens = self.trie.greedy_tokenize(text.decode(errors="ignore"))
        return tokens if text.startswith(self.trie.decode_bytes(tokens)) else []


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)
        case "tools":
            return llguidance.LLMatcher.grammar_from_lark(ToolGrammar(grammar.text).lark(JSON_RULES))
    schema = grammar.text if grammar.kind == "json_schema" else json.dumps({"type": "object"})
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=JSON_RULES)


class _Tokens:
    """A vocabulary as llguidance expects it: the bytes of every token, followed by an end token."""

    bos_token_id = None
    greedy: Encode  # set once the library has built it from the rest

    def __init__(self, texts: list[bytes], special: list[int], encode: Encode | None) -> None:
        self.tokens = [*texts, b""]
        self.eos_token_id = len(texts)
        self.special_token_ids = [*special, self.eos_token_id]
        self.encode, self._excluded = encode, frozenset(special)

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError  # makes llguidance pass text, not bytes
        tokens = self.encode(text[:FORCED]) if self.encode else []  # only the first token is used
        # A special token's name is plain text here.
        return tokens if self._excluded.isdisjoint(tokens) else self.greedy(text[:FORCED])
