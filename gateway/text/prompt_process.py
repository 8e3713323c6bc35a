"""Turns what strangers ask into tokens, and tokens into text, in a process with bounds: what prompt_encoder.py asks of
gateway/text/sandbox.py.

A tokenizer and a chat template are programs that came with a checkpoint. A normalizer may make a megabyte of one character, a
regular expression may take for ever; Jinja's sandbox keeps a template from files and from Python's insides, but not from loops
without end. Here they can do no harm with that.

| question                                           | answer                                                |
| -------------------------------------------------- | ----------------------------------------------------- |
| ``messages``, ``add_generation_prompt``, ``param`` | ``tokens``, or ``error``: a sentence for the client   |
| ``text``, ``add_special_tokens``, ``param``        | the same                                              |
| ``tokens``                                         | ``text``                                              |

Tokens are 32-bit integers in base64: of a million in JSON's digits, the gateway's other requests would notice the reading.
"""

import os
from collections.abc import Callable
from typing import Any

import jinja2

from gateway.errors import InvalidRequest
from gateway.text.chat_environment import compile_template, render
from gateway.text.prompt_encoder import pack, unpack
from gateway.text.tokenizer import Tokenizer

LONGEST_REASON = 500  # characters
LONGEST_TEXT = 4 << 20  # characters: more than a body can hold


def prepare(setup: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, str]]:
    """``setup``: a ``tokenizer`` as in tokenizer.json, and a ``chat_template`` or null."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one text at a time: more threads would only take memory
    tokenizer = Tokenizer(setup["tokenizer"], None)
    template = Template(setup["chat_template"] or "")

    def answer(question: dict[str, Any]) -> dict[str, str]:
        if "tokens" in question:
            return {"text": tokenizer.decode(unpack(question["tokens"]), skip_special_tokens=False)}
        param, special = question["param"], question.get("add_special_tokens", False)
        try:
            text = template.render(question, param) if "messages" in question else question["text"]
            tokens = pack(tokenizer.encode(text, param=param, add_special_tokens=special))
        except InvalidRequest as error:
            return {"error": error.message}
        return {"tokens": tokens}

    return answer


class Template:
    """Compiled with the first conversation: that may fail, too."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._compiled: jinja2.Template | None = None

    def render(self, question: dict[str, Any], param: str) -> str:
        """Raises InvalidRequest where it refuses the conversation, or fails in any way."""
        try:
            self._compiled = self._compiled or compile_template(self._source)
            conversation = {name: question[name] for name in ("messages", "add_generation_prompt")}
            text = render(self._compiled, conversation)
        except jinja2.TemplateError as error:
            reason = str(error)[:LONGEST_REASON]
            raise InvalidRequest(f"{param}: this model's chat template refuses them: {reason}", param=param) from error
        except Exception as error:
            raise InvalidRequest(f"{param}: this model's chat template cannot render them", param=param) from error
        if len(text) > LONGEST_TEXT:
            raise InvalidRequest(f"{param}: this model's chat template cannot render them", param=param)
        return text
