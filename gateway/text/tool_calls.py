"""Tools: what a request offers, and the forms in which families of models write their calls.

A form is data. The reader (tool_reader.py), the grammar (tool_grammar.py) and the default prompt (tool_prompt.py) are all made
from it, so they cannot disagree. How a route uses them is in tools.py.
"""

import secrets
import string
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 32  # of one answer
NAME, ARGUMENTS = "NAME", "ARGUMENTS"  # stand in a form's ``call`` for what differs from call to call


@dataclass(frozen=True)
class Tool:
    """``parameters``: a JSON schema of the arguments, an object. ``field``: where the request has that schema, for errors."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False
    field: str = "tools"

    def for_template(self) -> dict[str, Any]:
        """As chat templates read tools, which is OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolUse:
    """The model hears of all ``tools`` and may call those named in ``callable``. ``required``: it must call one, and writes
    nothing else. ``parallel``: it may call several, where its form can write that."""

    tools: tuple[Tool, ...]
    callable: tuple[str, ...]
    required: bool = False
    parallel: bool = True

    def called(self) -> list[Tool]:
        return [tool for tool in self.tools if tool.name in self.callable]


@dataclass(frozen=True)
class CallForm:
    """How calls are written: ``opening``, one ``call`` or several with ``between`` between them, ``closing``.

    ``tag``: what no other text holds, so that calls begin there; without one (``bare``) an answer's very beginning tells.
    ``between`` None: one call an answer. ``id_length``: of the ids that the template accepts; None: OpenAI's.
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
        """Of a call: what stands before its arguments."""
        return self.call.partition(ARGUMENTS)[0]

    @property
    def tail(self) -> str:
        return self.call.partition(ARGUMENTS)[2]

    def marks(self) -> str:
        """All of its text that may be spelled with special tokens."""
        return self.tag + self.opening + self.call + (self.between or "") + self.closing

    def new_id(self) -> str:
        """For a call."""
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
    """Of a template that writes tools itself, by the ``texts`` in it."""
    if "[TOOL_CALLS]" in texts:
        return MISTRAL_ARGS if "[ARGS]" in texts else MISTRAL
    if HERMES.tag in texts:
        return HERMES
    return LLAMA if LLAMA.tag in texts or '"parameters": ' in texts else BARE
