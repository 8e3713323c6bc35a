"""Constrained decoding: which tokens may come next so that a text matches a JSON schema, a regular expression or a grammar.

The library llguidance keeps the parser's state and gives the mask; here is what surrounds it: compilation with bounds, the end
of a text, and its completion before its tokens run out.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import llguidance
import numpy as np

from gateway.errors import InvalidRequest
from gateway.tokenizer import Tokenizer

PARAM = "response_format"
WHITESPACE = r"\n? {0,12}"  # between JSON's parts: enough to indent; without a bound a hot model writes nothing else
# Bounds of compilation and of a step, several times what ordinary schemas take. llguidance's own defaults allow seconds.
LIMITS = llguidance.LLParserLimits(
    max_grammar_size=100_000, max_lexer_states=10_000, initial_lexer_fuel=100_000, verbose_errors=False
)
# What a schema may not ask for itself, or bring in by another spelling: an escaped name would be an unknown property.
JSON_RULES: Any = {
    "whitespace_pattern": WHITESPACE,
    "json_allowed_escapes": '"\\bfnrt',
    "lenient": False,
    "coerce_one_of": False,
}
# So that a text is whole when its tokens run out, a way to its end stays within reach of its last STEERED tokens.
STEERED = 1024
LONGEST_COMPLETION = 1024  # tokens; a text that needs more to end may be cut off
# Of all searches of one text: masks × characters of the grammar, since long ones take longer a mask. Those of a regular
# expression or a Lark grammar may all lie in one lexeme, and count tenfold.
WORK, LEXEME = 20_000_000, 10
CIRCLE = 3  # times that a search takes the same token before it tries others
# What ends things, then what things are short with: tried in this order to complete a text in few tokens.
CLOSERS = [b"}", b"]", b")", b'"', b":", b",", b"0", b"1", b"null", b"true", b"a", b"{", b"[", b" "]
TEXT_CLOSERS = 3  # where in CLOSERS those begin that end free text
FREE_TEXT = 1000  # where more tokens than these may follow, it is text within quotes, which only a quote ends
NO_TOKEN = -1
# What a client may send, in characters: a mask then takes some milliseconds at most.
LONGEST_GRAMMAR = 8_192  # a regular expression, a Lark grammar, a string in a schema
LONGEST_SCHEMA = 32_768


@dataclass(frozen=True)
class Grammar:
    """``text``: a JSON schema, a regular expression (Rust's syntax), a grammar in llguidance's Lark; "" for "json_object"."""

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary, of ``vocabulary_size`` tokens."""

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int, end_tokens: frozenset[int]) -> None:
        self._tokenizer, self._vocabulary_size, self._end_tokens = tokenizer, vocabulary_size, end_tokens

    def compile(self, grammar: Grammar) -> "Matcher":
        """A matcher at the beginning of its text. May take a second: not for the event loop.

        Raises InvalidRequest with the library's own words, which speak of the grammar only.
        """
        try:
            matcher = llguidance.LLMatcher(self._vocabulary.trie, _source(grammar), log_level=0, limits=LIMITS)
            reason = matcher.get_error().partition("<state>")[0].strip()
        except ValueError as exc:
            reason = str(exc)
        if reason:
            raise InvalidRequest(f"{PARAM}: this {grammar.kind} cannot be used: {reason[:300]}", param=PARAM)
        compiled = Matcher(
            matcher, self._vocabulary, _Work(len(grammar.text) * (LEXEME if grammar.kind in ("regex", "lark") else 1))
        )
        if not compiled.complete and not compiled.copy().allowed().any():
            raise InvalidRequest(f"{PARAM}: this model's vocabulary has no token that it could begin with.", param=PARAM)
        compiled.find_way()
        return compiled

    @cached_property
    def _vocabulary(self) -> "_Vocabulary":
        """Made when it is first needed: that takes a few tenths of a second."""
        texts = [self._tokenizer.token_bytes(token) for token in range(self._vocabulary_size)]
        special = set(self._tokenizer.special_tokens)
        token_of = {text: token for token, text in reversed(list(enumerate(texts))) if token not in special}
        return _Vocabulary(
            trie=llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self._tokenizer, texts))),
            size=self._vocabulary_size,
            end_tokens=sorted(self._end_tokens),
            closers=[token_of.get(text, NO_TOKEN) for text in CLOSERS],
            single_bytes=[token_of[bytes([byte])] for byte in range(256) if bytes([byte]) in token_of],
        )


@dataclass(frozen=True)
class _Vocabulary:
    trie: llguidance.LLTokenizer
    size: int
    end_tokens: list[int]
    closers: list[int]  # as CLOSERS; NO_TOKEN where there is no such token
    single_bytes: list[int]


class _Work:
    """How much searching a text may still do: counted, not timed, so that the same seed gives the same text."""

    def __init__(self, characters: int) -> None:
        self.characters = max(characters, 100)
        self.left = WORK

    def take(self) -> bool:
        """Whether one more mask may be computed."""
        self.left -= self.characters
        return self.left >= 0


class Matcher:
    """The state of one text. Its own end token, which no model has, is the last bit of llguidance's mask.

    Slow beside a step where the grammar is long, and mostly outside of Python's lock: to be asked in a thread.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, vocabulary: _Vocabulary, work: _Work, way: list[int] | None = None
    ) -> None:
        self._matcher, self._vocabulary, self._work = matcher, vocabulary, work
        self._mask = np.zeros(vocabulary.size // 32 + 1, np.int32)  # a bit a token, and the end
        self._way = way  # tokens that complete the text from here, if any are known

    def copy(self) -> "Matcher":
        """The same state as a text of its own."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, _Work(self._work.characters), self._way)

    def find_way(self) -> None:
        """Looks for a completion once, so that the texts that begin here know one."""
        self._way = self.completion(LONGEST_COMPLETION)

    @property
    def complete(self) -> bool:
        """Nothing can follow: the text has ended, without an end token."""
        return self._matcher.is_stopped()

    def allowed(self) -> np.ndarray:
        """bool [vocabulary]: the tokens that may come next, the model's end tokens among them where the text may end.

        Raises InvalidRequest where the grammar takes more work than `LIMITS` allow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            reason = "takes too much work a token, or this model's vocabulary has no token that may come next"
            raise InvalidRequest(f"The form that the text must have {reason}.")
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._vocabulary.size + 1, bitorder="little").astype(np.bool_)
        allowed = bits[: self._vocabulary.size]
        allowed[self._vocabulary.end_tokens] = bits[-1]
        return allowed

    def advance(self, token: int, left: int) -> int:
        """Takes ``token``, which is allowed, and returns it, unless the text could then not be completed within ``left`` − 1
        more tokens: then one that leads to its completion instead.

        An end token is returned and not taken. Where no completion is known that is short enough, the model's choice stands.
        """
        if token in self._vocabulary.end_tokens:
            return token
        if self._way is not None:
            token = self._steer(token, self._way, left)
        if token not in self._vocabulary.end_tokens:
            self._matcher.consume_token(token)
        return token

    def _steer(self, token: int, way: list[int], left: int) -> int:
        """The token to take from a state that ``way`` completes; keeps a way from the state after it."""
        after = self._branch()
        after._matcher.consume_token(token)
        self._way = self._rest_of(way, token)
        if self._way is None and len(way) < left and after._completed_by(way):
            self._way = way  # what completed the text before mostly does so still
        if self._way is None:
            self._way = after.completion(min(left - 1, LONGEST_COMPLETION))
        if self._way is not None or left > STEERED or len(way) > left:
            return token
        if not way:  # it may end here, and nothing else leads to an end
            return self._vocabulary.end_tokens[0] if self._vocabulary.end_tokens else token
        token, *self._way = way
        return token

    def _rest_of(self, way: list[int], token: int) -> list[int] | None:
        """What remains of a way when its beginning was taken, in whatever tokens. None where it was not."""
        if way and way[0] == token:
            return way[1:]
        trie = self._vocabulary.trie
        whole, taken = trie.decode_bytes(way), trie.decode_bytes([token])
        rest = trie.tokenize_bytes(whole[len(taken) :]) if way and whole.startswith(taken) else None
        return rest if rest is not None and len(rest) < len(way) else None

    def _branch(self) -> "Matcher":
        """The same state, to try something: it counts as this text's work."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._work)

    def completion(self, limit: int) -> list[int] | None:
        """Few tokens after which the text may end; None where none are found within ``limit`` tokens and the text's work.

        The search takes what is forced, else what usually ends things; where that leads round in circles, as in `[a-f]+x`, a
        token that would end the text at once or the one that it has not taken for longest. The same state always gives the
        same answer.
        """
        state = self._branch()
        way: list[int] = []
        while not state._matcher.is_accepting():
            forced = self._vocabulary.trie.tokenize_bytes(state._matcher.compute_ff_bytes())
            if len(way) + max(1, len(forced)) > limit or not self._work.take():
                return None
            taken = forced[: state._matcher.try_consume_tokens(forced)] if forced else []
            if not taken:
                taken = [state._short_step(way)]
                state._matcher.consume_tokens(taken)
            way += taken
        return way

    def _short_step(self, way: list[int]) -> int:
        allowed = self.allowed()
        if len(way) >= CIRCLE and len(set(way[-CIRCLE:])) == 1:
            others = [token for token in self._vocabulary.single_bytes if allowed[token] and token != way[-1]]
            if others:
                last_taken = {token: place for place, token in enumerate(way)}
                longest_ago = min(others, key=lambda token: last_taken.get(token, -1))
                return next((token for token in others if self._completed_by([token])), longest_ago)
        closers = self._vocabulary.closers[TEXT_CLOSERS if allowed.sum() > FREE_TEXT else 0 :]
        return next((token for token in closers if token != NO_TOKEN and allowed[token]), int(allowed.argmax()))

    def _completed_by(self, way: list[int]) -> bool:
        """Whether the text may end after these tokens."""
        end = self._matcher.deep_copy()
        return bool(end.consume_tokens(way) and end.is_accepting())


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)
    schema = grammar.text if grammar.kind == "json_schema" else json.dumps({"type": "object"})
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=JSON_RULES)


class _Tokens:
    """A vocabulary as llguidance wants to see it: the bytes of every token, and an end token behind them all."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, texts: list[bytes]) -> None:
        self.tokens = [*texts, b""]
        self.eos_token_id = len(texts)
        self.special_token_ids = [*tokenizer.special_tokens, self.eos_token_id]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
