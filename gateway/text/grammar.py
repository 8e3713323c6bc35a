"""Constrained decoding: restricts the next token so that the output matches a JSON schema, a regular expression or a grammar.

The library llguidance keeps the parser state and computes masks. This module adds a trial in a resource-limited process
(grammar_process.py), the end of an output, and its completion before its tokens run out (grammar_completion.py).
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
# Limits of client input, in characters. They keep the time per mask to a few milliseconds.
LONGEST_GRAMMAR = 8_192  # a regular expression, a Lark grammar, a string in a schema
LONGEST_SCHEMA = 32_768
# Limits of one trial. Real grammars take at most a tenth of a second and a few megabytes.
SECONDS, MEMORY = 1.0, 24 << 20
TRIALS_AT_ONCE = 2
TOO_MUCH_WORK = "takes too much work a token, or this model's vocabulary has no token that may come next"
LARGE = 4096  # characters
KEPT = 256  # cached trial outcomes


class GrammarRefused(InvalidRequest):
    """``reason``: the library's own message, which concerns only the grammar."""

    def __init__(self, grammar: Grammar, reason: str) -> None:
        super().__init__(f"{PARAM}: this {grammar.kind} cannot be used: {reason[:300]}", param=PARAM)
        self.reason = reason[:300]


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary of ``vocabulary_size`` tokens. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, vocabulary_size: int, end_tokens: frozenset[int], visible: frozenset[int] = frozenset()
    ) -> None:
        """``visible``: the special tokens that a grammar may spell by name; all others are excluded."""
        self._tokenizer, self._vocabulary_size, self.end_tokens = tokenizer, vocabulary_size, sorted(end_tokens)
        self._special = [token for token in tokenizer.special_tokens if token not in visible]
        self.token_bytes = tokenizer.token_bytes
        self._outcomes: OrderedDict[bytes, dict[str, Any]] = OrderedDict()  # of trials, most recent last
        self._lock, self._making = Lock(), Lock()
        self._derived: list[GrammarCompiler] = []
        self._closed = False

    def compile(self, grammar: Grammar) -> "Matcher":
        """Returns a matcher at the start of its output. May take a second: do not call it on the event loop.

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
        """Returns a matcher without waiting if this grammar was tried recently, else None. Raises GrammarRefused if it was
        refused."""
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
        """Returns a compiler whose grammars may spell these special tokens by name. It closes with this one."""
        compiler = GrammarCompiler(self._tokenizer, self._vocabulary_size, frozenset(self.end_tokens), tokens)
        with self._making:
            self._derived.append(compiler)
            compiler._closed = self._closed
        return compiler

    def prepare(self) -> None:
        """Builds the vocabulary in advance: this takes a tenth of a second, during which no other thread runs."""
        try:
            assert self.vocabulary
        except STOPS:
            raise
        except BaseException as exc:  # a library panic is not an Exception
            logger.error("This model's vocabulary is none for grammars", exc_info=exc)

    def close(self) -> None:
        """Ends the processes, and those of later grammars once they are tried."""
        with self._making:
            self._closed = True
            trials: Sandbox | None = self.__dict__.get("_trials")
        if trials is not None:
            trials.close()
        for compiler in self._derived:
            compiler.close()

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
            if self._closed:
                self._trials.close()
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
    """A grammar that passed its trial. It is compiled once for all its outputs, when the first one needs a mask, so that
    waiting requests hold little memory."""

    def __init__(self, compiler: GrammarCompiler, grammar: Grammar, ways: Ways) -> None:
        self.compiler, self._grammar, self._ways = compiler, grammar, ways
        self.is_large = len(grammar.text) > LARGE
        self._compiled: llguidance.LLMatcher | None = None
        self._lock = Lock()

    def state(self) -> tuple[llguidance.LLMatcher, Completion]:
        """Returns the state of a new output."""
        with self._lock:
            vocabulary = self.compiler.vocabulary
            if self._compiled is None:
                self._compiled = vocabulary.compile(self._grammar)
            return self._compiled.deep_copy(), Completion(vocabulary, self._ways, vocabulary.closing(self._grammar.kind))


class Matcher:
    """The state of one output. May be used from any thread, one at a time. Mostly runs without the GIL, but is too slow for the
    event loop.

    If its grammar fails in any way, raises an error that affects only this output.
    """

    def __init__(self, start: GrammarStart) -> None:
        self.start = start
        self._begun: tuple[llguidance.LLMatcher, Completion] | None = None

    @property
    def active(self) -> bool:
        """Whether the output is constrained yet. Until then, only `watch` is called, with each token."""
        return True

    def watch(self, token: int) -> None:
        """Takes a token of an output that is not constrained yet."""

    def copy(self) -> "Matcher":
        """Returns a matcher for another output, at its start."""
        return Matcher(self.start)

    @property
    def begins_slowly(self) -> bool:
        """Whether the first mask takes tens of milliseconds because the grammar is compiled then."""
        return self.start.is_large and self._begun is None

    @property
    def complete(self) -> bool:
        """Whether nothing can follow: the output has ended, without an end token."""
        return self._begun is not None and self._begun[0].is_stopped()

    def allowed(self) -> np.ndarray:
        """Returns the tokens that may come next, bool [vocabulary], including the model's end tokens if the output may end."""
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
        """Takes ``token``, which must be allowed, and returns it. If the output could then not be completed within ``left`` − 1
        more tokens, takes and returns one that leads to its completion instead.

        An end token is returned but not taken. If no completion is known that is short enough, the model's choice stands.
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
    """Turns anything the library raises, including a panic, into an error of the affected output."""
    try:
        yield
    except (TidegateError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        logger.error("a grammar's library failed", exc_info=exc)
        raise InternalError() from exc
