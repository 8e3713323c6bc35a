"""Constrained decoding: which tokens may come next so that a text matches a JSON schema, a regular expression or a grammar.

The library llguidance keeps the parser's state and gives the mask; here is what surrounds it: a trial in a process with bounds
(grammar_process.py), the end of a text, and its completion before its tokens run out (grammar_completion.py).
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from threading import Lock
from typing import Any

import llguidance
import numpy as np

from gateway.errors import STOPS, InternalError, InvalidRequest, TidegateError
from gateway.text.grammar_completion import Completion, Ways
from gateway.text.grammar_library import Grammar, Vocabulary
from gateway.text.sandbox import BoundExceeded, Sandbox
from gateway.text.tokenizer import Tokenizer

__all__ = ["LONGEST_GRAMMAR", "LONGEST_SCHEMA", "PARAM", "Grammar", "GrammarCompiler", "Matcher"]
logger = logging.getLogger(__name__)

PARAM = "response_format"
# What a client may send, in characters: a mask then takes some milliseconds at most.
LONGEST_GRAMMAR = 8_192  # a regular expression, a Lark grammar, a string in a schema
LONGEST_SCHEMA = 32_768
# Of one trial: real grammars take a tenth of a second at most, and some megabytes.
SECONDS, MEMORY = 1.0, 24 << 20
TRIALS_AT_ONCE = 2
TOO_MUCH_WORK = "takes too much work a token, or this model's vocabulary has no token that may come next"
LARGE = 4096  # characters
KEPT = 256  # outcomes of trials


class GrammarRefused(InvalidRequest):
    """``reason``: in the library's own words, which speak of the grammar only."""

    def __init__(self, grammar: Grammar, reason: str) -> None:
        super().__init__(f"{PARAM}: this {grammar.kind} cannot be used: {reason[:300]}", param=PARAM)
        self.reason = reason[:300]


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary, of ``vocabulary_size`` tokens. Threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, vocabulary_size: int, end_tokens: frozenset[int], visible: frozenset[int] = frozenset()
    ) -> None:
        """``visible``: special tokens that a grammar may spell by their names; it cannot have others."""
        self._tokenizer, self._vocabulary_size, self.end_tokens = tokenizer, vocabulary_size, sorted(end_tokens)
        self._special = [token for token in tokenizer.special_tokens if token not in visible]
        self.token_bytes = tokenizer.token_bytes
        self._outcomes: OrderedDict[bytes, dict[str, Any]] = OrderedDict()  # of trials, the latest last
        self._lock, self._making = Lock(), Lock()

    def compile(self, grammar: Grammar) -> "Matcher":
        """A matcher at the beginning of its text. May take a second: not for the event loop.

        Raises GrammarRefused.
        """
        if (known := self.known(grammar)) is not None:
            return known
        try:
            outcome: dict[str, Any] = self._sandbox.ask({"kind": grammar.kind, "text": grammar.text})
        except BoundExceeded:
            outcome = {"refused": "it takes too much time or memory to compile"}
        with self._lock:
            self._outcomes[_name(grammar)] = outcome
            if len(self._outcomes) > KEPT:
                self._outcomes.popitem(last=False)
        return self._matcher(grammar, outcome)

    def known(self, grammar: Grammar) -> "Matcher | None":
        """The same at once, where this grammar was tried lately. Raises GrammarRefused where it was refused then."""
        with self._lock:
            if (outcome := self._outcomes.get(_name(grammar))) is None:
                return None
            self._outcomes.move_to_end(_name(grammar))
        return self._matcher(grammar, outcome)

    def _matcher(self, grammar: Grammar, outcome: dict[str, Any]) -> "Matcher":
        if "refused" in outcome:
            raise GrammarRefused(grammar, outcome["refused"])
        ways = Ways([way.encode("latin-1") for way in outcome["ways"]], outcome["hints"])
        return Matcher(GrammarStart(self, grammar, ways))

    def showing(self, tokens: frozenset[int]) -> "GrammarCompiler":
        """One whose grammars may spell these special tokens by their names."""
        return GrammarCompiler(self._tokenizer, self._vocabulary_size, frozenset(self.end_tokens), tokens)

    def prepare(self) -> None:
        """Makes what all grammars need before there are texts: it takes a tenth of a second, in which no other thread runs."""
        try:
            assert self.vocabulary
        except STOPS:
            raise
        except BaseException as exc:  # a panic of the library is no Exception
            logger.error("This model's vocabulary is none for grammars", exc_info=exc)

    @property
    def vocabulary(self) -> Vocabulary:
        """One, whichever thread needs it first."""
        with self._making:
            return self._own_vocabulary

    @cached_property
    def _own_vocabulary(self) -> Vocabulary:
        """Takes a tenth of a second."""
        encode = partial(self._tokenizer.encode, add_special_tokens=False)
        return Vocabulary.of(self._texts, self._special, encode)

    @cached_property
    def _texts(self) -> list[bytes]:
        return [self._tokenizer.token_bytes(token) for token in range(self._vocabulary_size)]

    @property
    def _sandbox(self) -> Sandbox:
        """One, whichever thread needs it first."""
        with self._making:
            return self._trials

    @cached_property
    def _trials(self) -> Sandbox:
        setup = {
            "texts": [text.decode("latin-1") for text in self._texts],
            "special": self._special,
            "end_tokens": bool(self.end_tokens),
        }
        return Sandbox("gateway.text.grammar_process", setup, seconds=SECONDS, memory=MEMORY, processes=TRIALS_AT_ONCE, nice=10)


def _name(grammar: Grammar) -> bytes:
    return hashlib.sha256(f"{grammar.kind} {grammar.text}".encode(errors="surrogatepass")).digest()


class GrammarStart:
    """Of a grammar that has passed its trial: compiled when the first of its texts needs a mask, so that those that wait hold
    little, and once for them all."""

    def __init__(self, compiler: GrammarCompiler, grammar: Grammar, ways: Ways) -> None:
        self.compiler, self._grammar, self._ways = compiler, grammar, ways
        self.is_large = len(grammar.text) > LARGE
        self._compiled: llguidance.LLMatcher | None = None
        self._lock = Lock()

    def state(self) -> tuple[llguidance.LLMatcher, Completion]:
        """Of a new text."""
        with self._lock:
            vocabulary = self.compiler.vocabulary
            if self._compiled is None:
                self._compiled = vocabulary.compile(self._grammar)
            return self._compiled.deep_copy(), Completion(vocabulary, self._ways, vocabulary.closing(self._grammar.kind))


class Matcher:
    """The state of one text. Threads may ask it one at a time: mostly outside of Python's lock, but not for the event loop.

    Raises, where its grammar fails in any way, an error of this text alone.
    """

    def __init__(self, start: GrammarStart) -> None:
        self.start = start
        self._begun: tuple[llguidance.LLMatcher, Completion] | None = None

    @property
    def active(self) -> bool:
        """Whether the text must match already. While it need not, `watch` takes its tokens, and nothing else is called."""
        return True

    def watch(self, token: int) -> None:
        """Takes a token of a text that is free yet."""

    def copy(self) -> "Matcher":
        """A text of its own, from the beginning."""
        return Matcher(self.start)

    @property
    def begins_slowly(self) -> bool:
        """Whether its first mask takes some tens of milliseconds, since it is compiled then."""
        return self.start.is_large and self._begun is None

    @property
    def complete(self) -> bool:
        """Nothing can follow: the text has ended, without an end token."""
        return self._begun is not None and self._begun[0].is_stopped()

    def allowed(self) -> np.ndarray:
        """bool [vocabulary]: the tokens that may come next, the model's end tokens among them where the text may end."""
        with _contained():
            (state, _), compiler = self._state(), self.start.compiler
            size = compiler.vocabulary.end
            mask = np.frombuffer(state.compute_bitmask(), np.uint8)
            if state.is_error():
                raise InvalidRequest(f"The form that the text must have {TOO_MUCH_WORK}.")
            bits = np.unpackbits(mask, count=size + 1, bitorder="little").view(np.bool_)
            allowed: np.ndarray = bits[:size]
            allowed[compiler.end_tokens] = bits[size]
            return allowed

    def advance(self, token: int, left: int) -> int:
        """Takes ``token``, which is allowed, and returns it, unless the text could then not be completed within ``left`` − 1
        more tokens: then one that leads to its completion instead.

        An end token is returned and not taken. Where no completion is known that is short enough, the model's choice stands.
        """
        ends = self.start.compiler.end_tokens
        if token in ends:
            return token
        with _contained():
            state, completion = self._state()
            steered = completion.steer(state, token, left)
            if steered is None and ends:  # it may end here, and nothing else leads to an end
                return ends[0]
            token = token if steered is None else steered
            if not state.consume_token(token):
                raise InvalidRequest(f"The form that the text must have {TOO_MUCH_WORK}.")
            return token

    def _state(self) -> tuple[llguidance.LLMatcher, Completion]:
        if self._begun is None:
            self._begun = self.start.state()
        return self._begun


@contextmanager
def _contained() -> Iterator[None]:
    """Whatever the library raises, a panic too, becomes an error of the text whose grammar it was."""
    try:
        yield
    except (TidegateError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        logger.error("a grammar's library failed", exc_info=exc)
        raise InternalError() from exc
