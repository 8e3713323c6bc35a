"""The chat template of a model: which one, and that the gateway will be able to render it."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text_file import is_unicode, read_text

DOLLY = Path(__file__).with_name("dolly.jinja")


def choose_template(tokenizer: TokenizerFiles, chosen: str | None) -> TokenizerFiles:
    """``chosen``: None for the model's own chat template, `none`, `dolly`, or a Jinja file.

    Raises CheckpointError where the template does not render a conversation.
    """
    if chosen == "none":
        return replace(tokenizer, chat_template=None)
    if chosen is None:
        if tokenizer.chat_template is not None and (fault := _fault(tokenizer.chat_template)):
            raise CheckpointError(f"its chat template does not render ({fault}): `--chat-template none` leaves it out")
        return tokenizer
    path = DOLLY if chosen == "dolly" else Path(chosen).expanduser()
    if not path.is_file():
        raise CheckpointError(f"the chat template {chosen!r} is neither `dolly`, `none` nor a file")
    template = read_text(path)
    if fault := _fault(template):
        raise CheckpointError(f"the chat template {path} does not render: {fault}")
    return replace(tokenizer, chat_template=template)


def self_contained(template: str | None, bos: str | None, eos: str | None) -> str | None:
    """The template with the tokens it mentions defined in it: whoever renders it needs nothing besides the messages."""
    for name, text in (("eos_token", eos), ("bos_token", bos)):
        if template and name in template:
            template = f"{{% set {name} = {json.dumps(text or '', ensure_ascii=False)} %}}{template}"
    return template


def _fault(template: str) -> str | None:
    """Why the gateway could not render the shortest conversation with the template; None where it can.

    The sandbox and its settings are those of gateway/template_process.py, which the export must not import.
    """
    if not is_unicode(template):
        return "it is no valid Unicode text"
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], optimized=False
    )
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        environment.from_string(template).render(messages=[{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    except Exception as exc:  # a template may raise whatever its expressions raise
        return " ".join(f"{type(exc).__name__}: {exc}".split())
    return None


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)
