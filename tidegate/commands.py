"""The commands of `tidegate`: each one's flags, and the function that does the work."""

import argparse
import os
from collections.abc import Callable

from gateway import VERSION, key_commands
from gateway.command_line import Parser, add_settings, given
from gateway.misspelt import did_you_mean
from serve import setting_table

DESCRIPTION = "Puts a small GPT's checkpoint behind OpenAI's API, served by NVIDIA Triton."
AS_VARIABLES = "Each flag is also an environment variable: --model-name is MODEL_NAME, and so on. The flag wins."
SETTINGS_OF = {
    "serve": setting_table.OF_SERVE,
    "export": setting_table.OF_EXPORT,
    "check": setting_table.OF_SERVE,
    "models": (setting_table.MODEL_REPOSITORY,),
    "remove": (setting_table.MODEL_REPOSITORY,),
}


def run(arguments: list[str]) -> int | str | None:
    """Returns the exit status, or an error message."""
    parser, commands = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.error(f"there is no command {arguments[0]!r}{did_you_mean(arguments[0], commands)}")
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return 2
    os.environ.update(given(parsed))  # everything that reads settings reads them from there
    command: Callable[[argparse.Namespace], int | str | None] = parsed.run
    return command(parsed)


def _parser() -> tuple[Parser, list[str]]:
    parser = Parser(prog="tidegate", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, run: object, summary: str, more: str = "") -> Parser:
        settings = SETTINGS_OF.get(name, ())
        usage = f"tidegate {name} [CHECKPOINT] [settings]" if len(settings) > 1 else None
        description = " ".join(filter(None, [f"{summary[0].upper()}{summary[1:]}.", more, AS_VARIABLES if settings else ""]))
        command = commands.add_parser(name, help=summary, description=description, usage=usage)
        command.set_defaults(run=run)
        if len(settings) > 1:
            checkpoint = setting_table.CHECKPOINT
            meaning = f"{checkpoint.meaning} ({checkpoint.name}; default: {checkpoint.default})"
            command.add_argument(checkpoint.name, nargs="?", metavar="CHECKPOINT", help=meaning)
        add_settings(command, settings)
        return command

    add("serve", _serve, "export a checkpoint if needed, start Triton and the gateway, and keep both alive until Ctrl-C")
    _add_export_flags(add("export", _export, "export a checkpoint into the model repository", EXPORT_MORE))
    add("models", _models, "list the exported models, and which server serves which")
    removed = add("remove", _remove, "delete a model from the model repository", "Running servers drop it within seconds.")
    removed.add_argument("name", metavar="NAME")
    key_commands.add_commands(add("keys", _keys, "make, revoke and list API keys"))
    add("check", _check, "say what `serve` would need and find here, without starting anything", CHECK_MORE)
    add("version", _version, "print the version")
    return parser, list(commands.choices)


EXPORT_MORE = "Running servers of the same model repository serve it within seconds."
CHECK_MORE = "The exit status is 1 if a start would fail."


def _add_export_flags(parser: argparse.ArgumentParser) -> None:
    more = parser.add_argument_group("this export")
    more.add_argument("--force", action="store_true", help="export even if the same export exists")
    more.add_argument("--candidates", type=int, metavar="N", help="most probable tokens that cross the wire (default: 64)")
    more.add_argument(
        "--query-seqlens",
        action=argparse.BooleanOptionalAction,
        help="let rows of several tokens share a forward pass; needs onnxruntime 1.32 (default: yes, but no for fp16)",
    )


def _serve(_: argparse.Namespace) -> None:
    from serve.run import run

    run()


def _export(arguments: argparse.Namespace) -> str | None:
    from serve.exporting import run

    flags = ["--force"] * arguments.force
    flags += [f"--candidates={arguments.candidates}"] * (arguments.candidates is not None)
    if arguments.query_seqlens is not None:
        flags.append("--query-seqlens" if arguments.query_seqlens else "--no-query-seqlens")
    return run(flags)


def _models(_: argparse.Namespace) -> str | None:
    from serve.models import show

    return show()


def _remove(arguments: argparse.Namespace) -> str | None:
    from serve.models import remove

    return remove(arguments.name)


def _keys(arguments: argparse.Namespace) -> None:
    key_commands.run(arguments)


def _check(_: argparse.Namespace) -> int:
    from serve.check import check

    return check()


def _version(_: argparse.Namespace) -> None:
    print(f"tidegate {VERSION}")
