"""Constrained decoding: which tokens may come next so that a text matches a JSON schema, a regular expression or a grammar.

The library llguidance keeps the parser's state and gives the mask; here is what surrounds it: compilation with bounds, the end
of a text, and its completion before its tokens run out.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import llguidance
import numpy as np

from gateway.errors import InvalidRequest
from gateway.tokenizer import Tokenizer

PARAM = "response_format"
WHITESPACE = r"\n? {0,12}"  # between JSON's parts: enough to indent; without a bound a hot model writes nothing else
# Bounds of compilation and of a step, several times what ordinary schemas take. llguidance's own defaults allow seconds.
LIMITS = llguidance.LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
# So that a text is whole when its tokens run out, its last STEERED tokens keep a way to its end within reach.
STEERED = 512
LONGEST_COMPLETION = 256  # tokens; a text that needs more to end may be cut off
SEARCH_WORK = 1_000_000  # characters of the grammar × tokens of a completion: long grammars take longer a token
LONGEST_GRAMMAR = 32_768  # characters, that a client may send; a mask then takes up to 15 ms
RETRY_EVERY = 64  # tokens, where none was found
SEARCHES = 4  # the later ones of at most GUESSES tokens, with at most LAST_TOKENS tried at each
GUESSES, LAST_TOKENS = 32, 64
# What ends things, then what things are short with: tried in this order to complete a text in few tokens.
CLOSERS = [b"}", b"]", b")", b'"', b":", b",", b"0", b"1", b"null", b"true", b"a", b"{", b"[", b" "]
TEXT_CLOSERS = 3  # where in CLOSERS those begin that end free text
FREE_TEXT = 1000  # where more tokens than these may follow, it is text within quotes, which only a quote ends
NO_TOKEN = -1


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
        compiled = Matcher(matcher, self._vocabulary, min(LONGEST_COMPLETION, SEARCH_WORK // max(1, len(grammar.text))))
        if not compiled.complete and not compiled.copy().allowed().any():
            raise InvalidRequest(f"{PARAM}: this model's vocabulary has no token that it could begin with.", param=PARAM)
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


class Matcher:
    """The state of one text. Its own end token, which no model has, is the last bit of llguidance's mask."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: _Vocabulary, longest_completion: int) -> None:
        self._matcher, self._vocabulary, self._longest_completion = matcher, vocabulary, longest_completion
        self._mask = np.zeros(vocabulary.size // 32 + 1, np.int32)  # a bit a token, and the end
        self._way: list[int] | None = None  # tokens that complete the text from here, if any are known
        self._searched = False  # whether they were looked for

    def copy(self) -> "Matcher":
        """The same state, to be gone on with apart. What is known of its completion stays behind."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._longest_completion)

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

        An end token is returned and not taken. Where no completion is known at all, the model's choice stands.
        """
        end_tokens = self._vocabulary.end_tokens
        if left > STEERED:
            self._way = None
        elif self._way is None and (not self._searched or left % RETRY_EVERY == 0):
            self._way, self._searched = self.completion(min(left, self._longest_completion)), True
        if self._way is not None and token not in end_tokens:
            token = self._steer(token, self._way, left)
        if token not in end_tokens:
            self._matcher.consume_token(token)
        return token

    def _steer(self, token: int, way: list[int], left: int) -> int:
        """The token to take from a state that ``way`` completes; keeps a way from the state after it."""
        after = self.copy()
        after._matcher.consume_token(token)
        if len(way) < left and after._completed_by(way):  # what completed the text before mostly does so still
            return token
        self._way = after.completion(min(left - 1, self._longest_completion))
        if self._way is not None:
            return token
        if way:
            token, *self._way = way
        elif self._vocabulary.end_tokens:
            token = self._vocabulary.end_tokens[0]
        return token

    def completion(self, limit: int) -> list[int] | None:
        """Few tokens after which the text may end; None where none are found within ``limit``.

        The first search takes what usually ends things; where that leads round in circles, as in `[a-f]+x`, tokens that would
        end the text at once are looked for, and chance leads on. The same state always gives the same answer.
        """
        for search in range(SEARCHES):
            way = self._search(min(limit, GUESSES), np.random.default_rng(search)) if search else self._search(limit)
            if way is not None:
                return way
        return None

    def _search(self, limit: int, chance: np.random.Generator | None = None) -> list[int] | None:
        state = self.copy()
        way: list[int] = []
        while not state._matcher.is_accepting():
            if len(way) >= limit:
                return None
            way.append(state._short_step(chance))
            state._matcher.consume_token(way[-1])
        return way

    def _short_step(self, chance: np.random.Generator | None) -> int:
        allowed = self.allowed()
        if chance is not None:
            singles = [token for token in self._vocabulary.single_bytes if allowed[token]]
            last = next((token for token in singles[:LAST_TOKENS] if self._completed_by([token])), None)
            if last is not None:
                return last
            if chance.random() < 0.3:
                return int(chance.choice(np.flatnonzero(allowed)))
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
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITESPACE})


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
