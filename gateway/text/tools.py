"""A model's support for tools, for every route that offers them.

A route turns its body into a `ToolUse`. Everything else follows the form in which the model writes calls:

- The prompt: `gateway.api.prompts.conversation_tokens(model, messages, tools=use)`. Messages in the form that templates read
  come from `gateway.api.schemas.history.Conversation`.
- The constraint on the output: ``model.tools.matcher(use)``. `gateway.api.routes.generating.prepare` requests it if the body's
  ``tool_use`` is not None, and passes it to the generation.
- Parsing an output: ``model.tools.reader(use)``, a `ToolReader` per output. Its ``feed`` splits the text of a delta into
  pieces, each a string, a `CallBegun` or a `CallArguments`; ``finish`` returns the last ones; `read_all` reads a whole output.
  If the reader is ``whole``, the output ended with its calls, whatever its finish reason.
"""

import re
from functools import cached_property
from threading import Lock

from gateway.errors import InvalidRequest
from gateway.text.deferred_matcher import DeferredMatcher
from gateway.text.grammar import LONGEST_SCHEMA, Grammar, GrammarCompiler, GrammarRefused, Matcher
from gateway.text.tokenizer import Tokenizer
from gateway.text.tool_calls import FORMS, CallForm, Tool, ToolUse
from gateway.text.tool_grammar import grammar_text
from gateway.text.tool_reader import ToolReader

LARGEST = 3 * LONGEST_SCHEMA  # characters of the grammar of all tools
# How llguidance tells where in a Lark grammar a schema is wrong: before its reason, and after it with an excerpt.
GRAMMAR_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
GRAMMAR_LINES = re.compile(r"\n +\d+ \| .*", re.DOTALL)


class ToolSupport:
    """Tool support of one model. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
        self._tokenizer, self._grammars = tokenizer, grammars
        self._making = Lock()

    def matcher(self, use: ToolUse) -> Matcher:
        """Returns a matcher for an output with calls. May take a second: do not call it on the event loop.

        Raises InvalidRequest for a tool's schema. If calls are optional, a tool whose schema cannot be used accepts any object,
        unless it is strict.
        """
        try:
            return self._compiled(use, frozenset())
        except GrammarRefused:
            refused = {tool.name: reason for tool in use.called() if (reason := self._refusal(tool))}
        for tool in use.called():
            if tool.name in refused and (use.required or tool.strict):
                raise InvalidRequest(f"{tool.field}: this schema cannot be used: {refused[tool.name]}", param=tool.field)
        try:
            return self._compiled(use, frozenset(refused))
        except GrammarRefused as error:
            if use.required or any(tool.strict for tool in use.called()):
                message = "tools: their schemas together take too much work; send fewer or simpler ones."
                raise InvalidRequest(message, param="tools") from error
        return self._compiled(use, frozenset(use.callable))

    def reader(self, use: ToolUse) -> ToolReader:
        """Returns a reader for one output."""
        return ToolReader(self.form, use.callable)

    @property
    def form(self) -> CallForm:
        """The form of the model's calls. The first access may take a second: not for the event loop."""
        with self._making:
            return self._form

    @cached_property
    def visible_tokens(self) -> frozenset[int]:
        """Special tokens that occur in calls, so an output's text must show them."""
        marks = self.form.marks()
        return frozenset(token for token, name in self._tokenizer.special_names.items() if name in marks)

    @cached_property
    def _form(self) -> CallForm:
        return FORMS[self._tokenizer.prompts.call_form()]

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        """The grammar compiler; a separate one if tags are special tokens."""
        if not self.visible_tokens:
            return self._grammars
        return self._grammars.showing(self.visible_tokens)

    def _compiled(self, use: ToolUse, loose: frozenset[str]) -> Matcher:
        grammar = Grammar("tools", grammar_text(use, self.form, loose=loose))
        if len(grammar.text) > LARGEST:
            raise GrammarRefused(grammar, f"it has {len(grammar.text)} characters, at most {LARGEST} are accepted")
        matcher = self._compiler.compile(grammar)
        return matcher if use.required else DeferredMatcher(matcher.start, self.form, use.callable)

    def _refusal(self, tool: Tool) -> str | None:
        """Returns why a tool's schema cannot be used even alone, or None."""
        try:
            self._compiled(ToolUse((tool,), (tool.name,), required=True, parallel=False), frozenset())
        except GrammarRefused as error:
            return _about_schema(error.reason)
        return None


def _about_schema(reason: str) -> str:
    """Returns the library's reason without its place in the grammar, which the client has not written."""
    return GRAMMAR_LINES.sub("", GRAMMAR_PLACE.sub("", reason))
