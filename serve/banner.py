"""What a start prints to the terminal."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.settings import DEFAULT_API_KEY
from gateway.settings import Settings as GatewaySettings
from serve.paths import COMMAND
from serve.triton_server import TritonServer

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard address → the loopback address to reach it at
LOCALHOST = ("127.0.0.1", "localhost")
PROXIES = ("http_proxy", "all_proxy", "ALL_PROXY")  # the variables that curl obeys for http://
EXAMPLE = {"prompt": "The sea is", "max_length": 40}
YELLOW, PLAIN = "\033[33m", "\033[0m"


def say(message: str) -> None:
    print(message, flush=True)


def warn(message: str) -> None:
    """In colour on a terminal that has any, unless NO_COLOR is set (no-color.org)."""
    coloured = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    say(f"{YELLOW}{message}{PLAIN}" if coloured else message)


def url(settings: GatewaySettings) -> str:
    """The URL at which this machine reaches the gateway."""
    host = EVERY_ADDRESS.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def warn_of_default_key(settings: GatewaySettings) -> None:
    if settings.my_api_key == DEFAULT_API_KEY:
        reached = "this machine" if settings.host in EVERY_ADDRESS else settings.host
        warn(
            f"WARNING: MY_API_KEY is not set. Anyone who can reach {reached} can use the model with the public key "
            f"{DEFAULT_API_KEY}.\n         Set your own: MY_API_KEY=something-secret {COMMAND}"
        )


def announce(
    settings: GatewaySettings, model: str | None = None, models: Sequence[str] = (), triton: TritonServer | None = None
) -> None:
    """Prints the last lines of a start, ending with a command that works when pasted. ``model``: the default model."""
    lines = _addresses(settings) | _served(model, models, triton) | _access(settings)
    say("\n".join(["\nTidegate is ready. Ctrl-C stops it.", *(f"  {name:8}  {line}" for name, line in lines.items())]))


def _addresses(settings: GatewaySettings) -> dict[str, str]:
    shown = _shown_url(settings)
    everywhere = " (and at every other address of this machine)" if settings.host in EVERY_ADDRESS else ""
    return {"page": f"{shown}/{everywhere}", "API docs": f"{shown}/docs"}


def _served(model: str | None, models: Sequence[str], triton: TritonServer | None) -> dict[str, str]:
    others = ", ".join(name for name in models if name != model)
    lines = {"model": f"{model}; also served: {others}" if model and others else model or others}
    if triton and model:
        memory = triton.memory(model)
        lines |= {"memory": str(memory)} if memory else {}
        lines |= {"log": f"{_short(triton.log)} (Triton's; the gateway's follows here)"}
    return lines


def _access(settings: GatewaySettings) -> dict[str, str]:
    """The API key, and an example command that uses it."""
    proxy = "--noproxy '*' " if any(map(os.environ.get, PROXIES)) else ""
    key, shown = settings.my_api_key, settings.my_api_key
    if key is None:
        make = f"tidegate keys create NAME --file {settings.api_keys_file}"
        key, shown = "YOUR-KEY", f"one of those in {settings.api_keys_file}; `{make}` makes another"
    header = shlex.quote(f"X-API-Key: {key}")
    request = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(EXAMPLE))}"
    return {"key": str(shown), "try": f"curl -s {proxy}{_shown_url(settings)}/generate -H {header} {request}"}


def _shown_url(settings: GatewaySettings) -> str:
    """The URL as people write it: with localhost where possible."""
    here = url(settings)
    return f"http://localhost:{settings.port}" if EVERY_ADDRESS.get(settings.host, settings.host) in LOCALHOST else here


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
