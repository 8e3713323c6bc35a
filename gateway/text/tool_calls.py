"""Tools: what a request offers, and the forms in which model families write calls.

A form is data. The reader (tool_reader.py), the grammar (tool_grammar.py) and the default prompt (tool_prompt.py) are derived
from it, so they cannot disagree. tools.py describes how routes use them.
"""

import secrets
import string
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 32  # per output
NAME, ARGUMENTS = "NAME", "ARGUMENTS"  # placeholders in a form's ``call``


@dataclass(frozen=True)
class Tool:
    """``parameters``: a JSON schema of the arguments, an object. ``field``: the schema's path in the request, for errors."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False
    field: str = "tools"

    def for_template(self) -> dict[str, Any]:
        """Returns the tool in the form that chat templates read, which is OpenAI's."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolUse:
    """The model sees all ``tools`` and may call those named in ``callable``. ``required``: it must call one and write nothing
    else. ``parallel``: it may make more than one call, if its form allows that."""

    tools: tuple[Tool, ...]
    callable: tuple[str, ...]
    required: bool = False
    parallel: bool = True

    def called(self) -> list[Tool]:
        return [tool for tool in self.tools if tool.name in self.callable]


@dataclass(frozen=True)
class CallForm:
    """How calls are written: ``opening``, one or more ``call`` separated by ``between``, ``closing``.

    ``tag``: occurs in no other text, so it marks the start of calls. ``bare``: calls may start without a tag, but only at the
    very start of an output. ``between`` None: one call per output. ``id_length``: of the ids that the template accepts; None:
    OpenAI's.
    """

    name: str
    opening: str
    call: str
    between: str | None
    closing: str
    tag: str = ""
    bare: bool = False
    id_length: int | None = None

    @property
    def head(self) -> str:
        """The part of a call before its arguments."""
        return self.call.partition(ARGUMENTS)[0]

    @property
    def tail(self) -> str:
        return self.call.partition(ARGUMENTS)[2]

    def marks(self) -> str:
        """Returns all text of the form that special tokens may spell."""
        return self.tag + self.opening + self.call + (self.between or "") + self.closing

    def new_id(self) -> str:
        """Returns a new call id."""
        letters = string.ascii_letters + string.digits
        if self.id_length is not None:
            return "".join(secrets.choice(letters) for _ in range(self.id_length))
        return f"call_{secrets.token_hex(12)}"


JSON_CALL = '{"name": "NAME", "arguments": ARGUMENTS}'
HERMES = CallForm("hermes", "<tool_call>\n", JSON_CALL, "\n</tool_call>\n<tool_call>\n", "\n</tool_call>", tag="<tool_call>")
MISTRAL = CallForm("mistral", "[TOOL_CALLS][", JSON_CALL, ", ", "]", tag="[TOOL_CALLS]", id_length=9)
MISTRAL_ARGS = CallForm(
    "mistral_args", "[TOOL_CALLS]", "NAME[ARGS]ARGUMENTS", "[TOOL_CALLS]", "", tag="[TOOL_CALLS]", id_length=9
)
LLAMA = CallForm("llama", "", '{"name": "NAME", "parameters": ARGUMENTS}', None, "", tag="<|python_tag|>", bare=True)
BARE = CallForm("json", "", JSON_CALL, None, "", bare=True)
FORMS = {form.name: form for form in (HERMES, MISTRAL, MISTRAL_ARGS, LLAMA, BARE)}


def form_of(texts: str) -> CallForm:
    """Returns the form of a template that writes tools itself, recognised by the ``texts`` in it."""
    if "[TOOL_CALLS]" in texts:
        return MISTRAL_ARGS if "[ARGS]" in texts else MISTRAL
    if HERMES.tag in texts:
        return HERMES
    return LLAMA if LLAMA.tag in texts or '"parameters": ' in texts else BARE
