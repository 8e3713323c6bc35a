"""``python -m gateway``: the gateway alone, in front of a Triton that is already running."""

import os

from gateway import VERSION
from gateway.command_line import Parser, add_settings, given
from gateway.setting_table import MODEL_NAME, SETTINGS

DESCRIPTION = """The gateway alone: keys, sampling and the HTTP API in front of a Triton that is already running (--triton-url).
Each flag is also an environment variable: --max-waiting is MAX_WAITING, and so on. A flag wins over its variable."""


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m gateway", usage="%(prog)s [settings]", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    parser.add_argument("--quiet-start", action="store_true", help="log neither the address nor a warning about the public key")
    add_settings(parser, (MODEL_NAME, *SETTINGS))
    options = parser.parse_args(arguments)
    os.environ.update(given(options))
    from gateway.server import run  # here, because it takes seconds to import and --help does not need it

    run(announced=not options.quiet_start)


if __name__ == "__main__":
    main()
