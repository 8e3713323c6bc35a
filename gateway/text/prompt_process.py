"""Converts untrusted input to tokens, and tokens to text, in a resource-limited process. prompt_encoder.py runs it through
gateway/text/sandbox.py.

A tokenizer and a chat template are programs that come with a checkpoint. A normalizer may turn one character into a megabyte,
and a regular expression may run forever. Jinja's sandbox keeps a template away from files and Python's internals, but does not
stop endless loops. Here they can do no harm.

| question                                           | answer                                                |
| -------------------------------------------------- | ----------------------------------------------------- |
| ``messages``, ``tools`` or null, ``variables``,    | ``tokens``, or ``error``: a sentence for the client   |
| ``add_generation_prompt``, ``param``               |                                                       |
| ``text``, ``add_special_tokens``, ``param``        | the same                                              |
| ``tokens``                                         | ``text``                                              |
| ``form``                                           | ``form``: in which the model writes calls of tools    |

Tokens are 32-bit integers in base64: parsing a million JSON numbers would delay the gateway's other requests.
"""

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jinja2

from gateway.errors import InvalidRequest
from gateway.text.chat_environment import compile_template, render
from gateway.text.prompt_encoder import pack, unpack
from gateway.text.tokenizer import Tokenizer
from gateway.text.tool_calls import HERMES, CallForm
from gateway.text.tool_prompt import own_form, plain_conversation

LONGEST_REASON = 500  # characters
LONGEST_TEXT = 4 << 20  # characters: more than a body can hold


def prepare(setup: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, str]]:
    """``setup``: a ``tokenizer`` as in tokenizer.json, and a ``chat_template`` or null."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one text at a time: more threads would only use memory
    tokenizer = Tokenizer(setup["tokenizer"], None)
    template = Template(setup["chat_template"] or "")

    def answer(question: dict[str, Any]) -> dict[str, str]:
        if "tokens" in question:
            return {"text": tokenizer.decode(unpack(question["tokens"]), skip_special_tokens=False)}
        if "form" in question:
            return {"form": (template.form or HERMES).name}
        param, special = question["param"], question.get("add_special_tokens", False)
        try:
            rendered = "messages" in question
            text = template.render(question, param) if rendered else question["text"]
            tokens = pack(tokenizer.encode(text, param=param, add_special_tokens=special, rendered=rendered))
        except InvalidRequest as error:
            return {"error": error.message}
        return {"tokens": tokens}

    return answer


class Template:
    """A chat template, compiled on first use because compiling may fail too."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._compiled: jinja2.Template | None = None

    def render(self, question: dict[str, Any], param: str) -> str:
        """Renders a conversation. Raises InvalidRequest if the template rejects it or fails in any way."""
        try:
            self._compiled = self._compiled or compile_template(self._source)
            text = self._rendered(self._compiled, question)
        except jinja2.TemplateError as error:
            reason = str(error)[:LONGEST_REASON]
            raise InvalidRequest(f"{param}: this model's chat template refuses them: {reason}", param=param) from error
        except Exception as error:
            raise InvalidRequest(f"{param}: this model's chat template cannot render them", param=param) from error
        if len(text) > LONGEST_TEXT:
            raise InvalidRequest(f"{param}: this model's chat template cannot render them", param=param)
        return text

    @cached_property
    def form(self) -> CallForm | None:
        """The form in which the template itself writes calls, or None if it does not support tools."""
        try:
            self._compiled = self._compiled or compile_template(self._source)
            return own_form(self._compiled, self._source)
        except Exception:  # it will render nothing either
            return None

    def _rendered(self, template: jinja2.Template, question: dict[str, Any]) -> str:
        messages, tools = question["messages"], question.get("tools")
        own = {"messages": messages, "add_generation_prompt": question["add_generation_prompt"]}
        conversation = question.get("variables", {}) | own
        if not tools and not any(message["role"] == "tool" or message.get("tool_calls") for message in messages):
            return render(template, conversation)
        if self.form is not None:
            return render(template, conversation | {"tools": tools})
        try:
            return render(template, conversation | {"messages": plain_conversation(messages, tools or [])})
        except jinja2.TemplateError:  # some templates do not support system messages
            return render(template, conversation | {"messages": plain_conversation(messages, tools or [], system=False)})
