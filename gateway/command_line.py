"""Shared by all our commands: settings as flags, errors with "did you mean", tables. Standard library only."""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from typing import NoReturn

from gateway.misspelt import did_you_mean
from gateway.setting_table import Setting


class Parser(argparse.ArgumentParser):
    """Accepts no abbreviations. Errors about unknown flags suggest a similar one."""

    def __init__(self, **options: object) -> None:
        options = {"allow_abbrev": False, "formatter_class": _Formatter} | options
        super().__init__(**options)  # type: ignore[arg-type]  # ArgumentParser has no type for its options

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # subcommands are parsed by this one too
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown[0])
        return parsed, unknown

    def refuse(self, argument: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        name = argument.partition("=")[0]
        self.error(f"unknown argument {argument!r}{did_you_mean(name, flags) if name.startswith('-') else ''}")

    def error(self, message: str) -> NoReturn:
        """One line, without the usage: with thirty flags, that would hide the message."""
        self.exit(2, f"{self.prog}: {message}\n({self.prog} --help lists what it takes)\n")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def add_settings(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """Adds a flag for each setting, under its group. Values are checked together with the environment's."""
    for title, group in itertools.groupby(settings, key=lambda setting: setting.group):
        section = parser.add_argument_group(title)
        for setting in group:
            section.add_argument(setting.flag, dest=setting.name, metavar=setting.value, help=_help(setting))


def _help(setting: Setting) -> str:
    bounds = setting.allowed if " to " in setting.allowed else ""
    default = f"default: {setting.default}" if setting.default else ""
    facts = "; ".join(filter(None, [bounds, default]))
    return (f"{setting.meaning} ({facts})" if facts else setting.meaning).replace("%", "%%")


def given(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings given as flags, named like environment variables."""
    return {name: value for name, value in vars(arguments).items() if name.isupper() and value is not None}


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
