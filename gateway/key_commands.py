"""`tidegate keys`, or `python -m gateway.keys` if only the gateway is installed: create, revoke and list API keys.

Slow imports happen when a command runs, so that help texts and errors appear immediately.
"""

import argparse
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.command_line import Parser, columns

if TYPE_CHECKING:
    from gateway.keys import ApiKey

DURATION = re.compile(r"([1-9][0-9]{0,5})([hd])")
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m gateway.keys", description="API keys of a Tidegate gateway.")
    add_commands(parser)
    run(parser.parse_args(arguments))


def run(arguments: argparse.Namespace) -> None:
    from gateway.keys import KeyFileError

    if arguments.file is None:
        sys.exit("tidegate: which file of keys? Give --file, or set API_KEYS_FILE.")
    try:
        print(arguments.run_keys(arguments))
    except KeyFileError as error:
        sys.exit(f"tidegate: {error}")
    except OSError as error:
        sys.exit(f"tidegate: {arguments.file} cannot be written: {error.strerror}")


def add_commands(parser: argparse.ArgumentParser) -> None:
    file = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("API_KEYS_FILE") or None
    file.add_argument("--file", type=Path, default=default, help="the file of keys (default: $API_KEYS_FILE)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    making = commands.add_parser("create", parents=[file], help="make a key and print it, once")
    making.add_argument("name", type=_name, metavar="NAME")
    making.add_argument("--expires", type=_moment, help="30d, 12h, or a time such as 2027-01-01T00:00:00Z (default: never)")
    making.add_argument("--requests-per-minute", type=_limit, metavar="N")
    making.add_argument("--tokens-per-minute", type=_limit, metavar="N", help="prompts and answers together")
    making.add_argument("--concurrent-requests", type=_limit, metavar="N", help="at once, uploads included")
    making.add_argument("--model", action="append", metavar="NAME", help="a model it may use; may be repeated (default: all)")
    making.set_defaults(run_keys=_create)

    revoking = commands.add_parser("revoke", parents=[file], help="remove a key: gateways refuse it within a second")
    revoking.add_argument("name", metavar="NAME")
    revoking.set_defaults(run_keys=_revoke)

    commands.add_parser("list", parents=[file], help="list the keys, without their secrets").set_defaults(run_keys=_list)


def _create(arguments: argparse.Namespace) -> str:
    from gateway.keys import create

    models = tuple(arguments.model) if arguments.model else None
    limits = ("expires", "requests_per_minute", "tokens_per_minute", "concurrent_requests")
    given = {limit: getattr(arguments, limit) for limit in limits}
    return create(arguments.file, arguments.name, models=models, **given)


def _revoke(arguments: argparse.Namespace) -> str:
    from gateway.keys import revoke

    revoke(arguments.file, arguments.name)
    return f"{arguments.name} is revoked."


def _list(arguments: argparse.Namespace) -> str:
    from gateway.keys import read_keys

    titles = ["name", "expires", "requests/min", "tokens/min", "concurrent", "models"]
    return columns([titles] + [_row(key) for key in read_keys(arguments.file)])


def _row(key: "ApiKey") -> list[str]:
    expires = f"{key.expires.isoformat(timespec='minutes')}{' (past)' if key.expired else ''}" if key.expires else "never"
    limits = [key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests]
    models = "all" if key.models is None else ", ".join(key.models)
    return [key.name, expires, *("-" if limit is None else str(limit) for limit in limits), models]


def _name(text: str) -> str:
    from gateway.keys import NAME

    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r}: a name has 1 to 64 letters, digits and . _ @ -")
    return text


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10**12):
        raise argparse.ArgumentTypeError(f"{text!r}: it must be a whole number of at least 1")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        if match := DURATION.fullmatch(text):
            moment = datetime.now(UTC).replace(microsecond=0) + int(match[1]) * UNITS[match[2]]
        else:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r}: it must be as 30d, 12h or 2027-01-01T00:00:00Z") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone; write {text}Z for UTC")
    if moment <= datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} is in the past")
    return moment
