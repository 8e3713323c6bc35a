"""Optional calls: until the model starts one, its output is free and costs nothing; from then on it is constrained."""

from collections.abc import Sequence

import numpy as np

from gateway.text.grammar import GrammarStart, Matcher
from gateway.text.tool_calls import CallForm
from gateway.text.tool_reader import CallTrigger


class DeferredMatcher(Matcher):
    """A matcher for the tool grammar ``start``. `watch` takes every token of the free text."""

    def __init__(self, start: GrammarStart, form: CallForm, names: Sequence[str]) -> None:
        super().__init__(start)
        self._form, self._names = form, names
        self._trigger = CallTrigger(form, names)
        self._written: bytes | None = None  # the part of the calls written in the free text
        self._free = False  # whether that part did not match the grammar: then the output is free until the next tag

    def copy(self) -> "DeferredMatcher":
        return DeferredMatcher(self.start, self._form, self._names)

    @property
    def active(self) -> bool:
        return self._written is not None or self._free

    def watch(self, token: int) -> None:
        self._written = self._trigger.begun_with(self.start.compiler.token_bytes(token))

    @property
    def complete(self) -> bool:
        return not self._free and super().complete

    def allowed(self) -> np.ndarray:
        self._catch_up()
        return np.ones(self.start.compiler.vocabulary.end, np.bool_) if self._free else super().allowed()

    def advance(self, token: int, left: int) -> int:
        if not self._free:
            return super().advance(token, left)
        self.watch(token)
        self._free = self._written is None
        return token

    def _catch_up(self) -> None:
        """Advances the grammar over the part of the calls written in the free text."""
        if self._begun is None and self._written is not None and not self._free:
            state, completion = self.start.state()
            tokens = self.start.compiler.vocabulary.spelled(self._written)
            self._free = not tokens or not state.consume_tokens(tokens)
            completion.begin_with(self._written)
            self._begun = None if self._free else (state, completion)
            self._written = None if self._free else self._written
