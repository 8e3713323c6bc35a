"""Renders a chat template in a process with bounds: what gateway/chat_template.py asks of gateway/sandbox.py.

A template is a program that came with a checkpoint. Jinja's sandbox keeps it from files and from Python's insides, but not from
loops without end or texts that fill the memory: there it can do no harm with them.

Asked ``{"messages": …, "add_generation_prompt": …}``, answers ``{"text": …}``, ``{"refused": why}`` by the template, or ``{}``.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_REASON = 500  # characters
LONGEST_TEXT = 4 << 20  # characters: more than a body can hold


def prepare(source: str) -> Callable[[dict[str, Any]], dict[str, str]]:
    """The template is compiled with the first question: that may fail, too."""
    compiled: jinja2.Template | None = None

    def render(asked: dict[str, Any]) -> dict[str, str]:
        nonlocal compiled
        try:
            compiled = compiled or compile_template(source)
            text = compiled.render(**asked)
        except jinja2.TemplateError as exc:
            return {"refused": str(exc)[:LONGEST_REASON]}
        except Exception:  # also a MemoryError: the template may fail in any way
            return {}
        return {"text": text} if len(text) <= LONGEST_TEXT else {}

    return render


def compile_template(source: str) -> jinja2.Template:
    """In Jinja's sandbox, with the settings and functions that chat templates expect."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        optimized=False,  # or what it finds constant would be computed for every conversation, also where no branch leads there
    )
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(source)


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)
