"""The settings, from serve/setting_table.py: the table in docs/operations.md, and the list that `make help` prints."""

import re
from dataclasses import Field, fields
from pathlib import Path

from gateway import settings as gateway_settings
from serve import settings as serve_settings
from serve.setting_table import ALL

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"
HELP = re.compile(r"(?<=#\| Settings \(environment variables, or make serve NAME=value\)\n)(#\|   .*\n)+")
OWN = {"checkpoint": "MODEL_CHECKPOINT"}  # variables that are not their field's name in capitals
WITHOUT_FIELD = {"MY_API_KEY_FILE", "PYTHON"}  # read into another field; by make


def settings_table() -> str:
    """Raises ValueError unless the table has exactly the settings that the code reads, with the same defaults."""
    if names := {setting.name for setting in ALL} ^ _read():
        raise ValueError(f"only in the code or only in serve/setting_table.py: {sorted(names)}")
    rows = ["| setting | meaning | default | allowed | read by |", "| --- | --- | --- | --- | --- |"]
    for setting in ALL:
        _check_default(setting.name, setting.default)
        rows.append(f"| `{setting.name}` | {setting.meaning} | {setting.default} | {setting.allowed} | {setting.read_by} |")
    return "\n".join(rows)


def makefile_with_settings(text: str) -> str:
    """The Makefile ``text`` with the settings in its help."""
    width = max(len(setting.name) for setting in ALL if not setting.name.startswith("OTEL_"))
    lines = [
        f"#|   {setting.name:{width}} {setting.meaning}{f' (default: {setting.default})' if setting.default else ''}\n"
        for setting in ALL
    ]
    return HELP.sub(lambda _: "".join(lines), text)


def _check_default(variable: str, documented: str) -> None:
    for field in (*fields(gateway_settings.Settings), *fields(serve_settings.Settings)):
        # TRITON_URL has one in the gateway alone: `make serve` starts a Triton of its own.
        plain = isinstance(field.default, str | int) and variable != "TRITON_URL"
        default = gateway_settings.SWITCH[not field.default] if isinstance(field.default, bool) else field.default
        if _variable(field) == variable and plain and not re.match(rf"{re.escape(str(default))}\b", documented):
            raise ValueError(f"the default of {variable} is {default!r}, its table says {documented!r}")


def _read() -> set[str]:
    """Every variable that the code reads."""
    of_serve = [field for field in fields(serve_settings.Settings) if field.name not in ("gateway", "own_triton")]
    return {_variable(field) for field in (*fields(gateway_settings.Settings), *of_serve)} | WITHOUT_FIELD


def _variable(field: Field[object]) -> str:
    return OWN.get(field.name, field.name.upper())
