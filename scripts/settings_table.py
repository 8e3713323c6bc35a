"""The table of settings in docs/operations.md: names and defaults from the code, meanings from `make help`."""

import re
from dataclasses import Field, fields
from pathlib import Path

from export.names import MODEL_NAME_ALLOWED, PRECISIONS
from gateway import settings as gateway_settings
from serve import settings as serve_settings

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"
LINE = re.compile(r"^#\|   ([A-Z_]+) +(.+?)(?: \(default: (.+)\))?$", re.MULTILINE)  # of `make help`: setting, meaning, default
VARIABLES = {"checkpoint": "MODEL_CHECKPOINT"}  # of the fields that are not simply in capitals
EXPORT, START, GATEWAY, SETUP = "export", "start", "gateway", "set-up"
READERS = {"slots": START} | dict.fromkeys(
    ("checkpoint", "precision", "tokenizer", "chat_template", "heads", "context_length"), EXPORT
)
ALLOWED = {
    "MODEL_NAME": MODEL_NAME_ALLOWED,
    "PRECISION": ", ".join(PRECISIONS),
    "HEADS": "a whole number of at least 1, or auto",
    "CONTEXT_LENGTH": "a whole number of at least 1, or auto",
    "SLOTS": "a whole number of at least 1, or auto",
    "LOG_FORMAT": " or ".join(gateway_settings.LOG_FORMATS),
    "SPECULATION": " or ".join(gateway_settings.SWITCH),
    "RUN_AHEAD": f"off, or 1 to {gateway_settings.LONGEST_RUN_AHEAD:,}",
    "ALLOW_DEFAULT_KEY": " or ".join(gateway_settings.SWITCH),
    "CORS_ORIGINS": "*, none, or origins separated by commas",
    "MY_API_KEY": "at least one printable character, no spaces at its ends",
    "MY_API_KEY_FILE": f"a file of at most {gateway_settings.LONGEST_KEY} bytes",
}


def settings_table() -> str:
    """Raises ValueError where a setting is missing in `make help`, stands there without being one, or has another default."""
    documented, readers = LINE.findall(MAKEFILE.read_text("utf-8")), _readers()
    if names := {name for name, _, _ in documented} ^ readers.keys():
        raise ValueError(f"only in the code or only in `make help`: {sorted(names)}")
    rows = ["| setting | meaning | default | allowed | read by |", "| --- | --- | --- | --- | --- |"]
    for name, meaning, default in documented:
        _check_default(name, default)
        rows.append(f"| `{name}` | {meaning} | {default} | {_allowed(name)} | {readers[name]} |")
    return "\n".join(rows)


def _check_default(variable: str, documented: str) -> None:
    for field in (*fields(gateway_settings.Settings), *fields(serve_settings.Settings)):
        # TRITON_URL has one in the gateway alone: `make serve` starts a Triton of its own.
        plain = isinstance(field.default, str | int) and variable != "TRITON_URL"
        default = gateway_settings.SWITCH[not field.default] if isinstance(field.default, bool) else field.default
        if _variable(field) == variable and plain and not re.match(rf"{re.escape(str(default))}\b", documented):
            raise ValueError(f"the default of {variable} is {default!r}, `make help` says {documented!r}")


def _readers() -> dict[str, str]:
    """Every variable that the code reads, with the process that does."""
    of_gateway = {_variable(field): GATEWAY for field in fields(gateway_settings.Settings)}
    of_serve = {
        _variable(field): READERS[field.name]
        for field in fields(serve_settings.Settings)
        if field.name not in ("gateway", "own_triton")  # the gateway's own, and whether TRITON_URL is set
    }
    shared = {"MODEL_NAME": f"{EXPORT}, {GATEWAY}", "TRITON_URL": f"{START}, {GATEWAY}", "PORT": f"{START}, {GATEWAY}"}
    return of_gateway | of_serve | shared | {"HOST": shared["PORT"], "MY_API_KEY_FILE": GATEWAY, "PYTHON": SETUP}


def _variable(field: Field[object]) -> str:
    return VARIABLES.get(field.name, field.name.upper())


def _allowed(variable: str) -> str:
    bounds = gateway_settings.INTEGERS.get(variable.lower())
    return f"{bounds[0]:,} to {bounds[1]:,}" if bounds else ALLOWED.get(variable, "")
