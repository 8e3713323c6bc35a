"""A model's chat template: chooses it, defines the special tokens it uses, and checks that the gateway can render it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text.chat_environment import ABSENT, compile_template, render
from export.text_file import is_unicode, read_text

DOLLY = Path(__file__).with_name("dolly.jinja")
CONVERSATION = {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": True}


def choose_template(tokenizer: TokenizerFiles, chosen: str | None) -> TokenizerFiles:
    """``chosen``: None for the model's own chat template, `none`, `dolly`, or a Jinja file."""
    if chosen == "none":
        return replace(tokenizer, chat_template=None)
    template = tokenizer.chat_template
    if chosen is not None:
        path = DOLLY if chosen == "dolly" else Path(chosen).expanduser()
        if not path.is_file():
            raise CheckpointError(f"the chat template {chosen!r} is neither `dolly`, `none` nor a file")
        template = read_text(path)
    if template is not None:
        if not is_unicode(template):
            raise CheckpointError("its chat template is no valid Unicode text: `--chat-template none` leaves it out")
        template = with_tokens(template, tokenizer.special_tokens)
    return replace(tokenizer, chat_template=template)


def with_tokens(template: str, special_tokens: Mapping[str, str]) -> str:
    """Defines the special tokens that the template uses in the template itself, so rendering only needs the messages.

    A token whose name clashes with a conversation field, such as `messages`, is not defined. A newline follows the definitions,
    which Jinja drops, so that the template still starts a line.
    """
    free = special_tokens.keys() - CONVERSATION.keys() - ABSENT.keys()
    named = {
        name: text for name, text in special_tokens.items() if name in free and re.search(rf"\b{re.escape(name)}\b", template)
    }
    sets = [f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}" for name, text in named.items()]
    return "".join([*sets, "\n", template]) if sets else template


def require_rendering(template: str | None, chosen: str | None) -> None:
    """Raises CheckpointError if it cannot render a short conversation. Call it only in a process with resource limits:
    any template may loop forever, even if it did not a moment ago."""
    if template is None:
        return
    try:
        render(compile_template(template), CONVERSATION)
    except Exception as exc:  # a template may raise whatever its expressions raise
        fault = " ".join(f"{type(exc).__name__}: {exc}".split())
        if chosen is None:
            way_out = "`--chat-template none` leaves it out"
            raise CheckpointError(f"its chat template does not render ({fault}): {way_out}") from exc
        raise CheckpointError(f"the chat template {chosen} does not render: {fault}") from exc
