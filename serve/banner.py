"""What a start tells the person at the terminal."""

import json
import os
import shlex
import sys

from gateway.settings import DEFAULT_API_KEY
from gateway.settings import Settings as GatewaySettings

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # each with the address at which this machine reaches itself
PROXIES = ("http_proxy", "all_proxy", "ALL_PROXY")  # the variables that curl obeys for http://
EXAMPLE = {"prompt": "The sea is", "max_length": 40}


def say(message: str) -> None:
    print(message, flush=True)


def url(settings: GatewaySettings) -> str:
    """Where this machine reaches the gateway."""
    host = EVERY_ADDRESS.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def warn_of_default_key(settings: GatewaySettings) -> None:
    if settings.my_api_key == DEFAULT_API_KEY:
        who = f"everyone who reaches {'this machine' if settings.host in EVERY_ADDRESS else settings.host}"
        lines = f"WARNING: MY_API_KEY is not set. The key is the public {DEFAULT_API_KEY}: {who} can use the model."
        bold_red, plain = ("\033[1;31m", "\033[0m") if sys.stdout.isatty() else ("", "")
        say(f"{bold_red}{lines}{plain}\n         MY_API_KEY=something-secret make serve")


def announce(settings: GatewaySettings) -> None:
    """The last lines of a start: address, key, and a command that works when pasted."""
    everywhere = f" (listening on {settings.host})" if settings.host in EVERY_ADDRESS else ""
    proxy = "--noproxy '*' " if any(map(os.environ.get, PROXIES)) else ""
    key, shown = settings.my_api_key, settings.my_api_key
    if key is None:
        make = f"tidegate keys create NAME --file {settings.api_keys_file}"
        key, shown = "YOUR-KEY", f"one of those in {settings.api_keys_file}; `{make}` makes another"
    header = shlex.quote(f"X-API-Key: {key}")
    say(
        f"\nTidegate is ready. Ctrl-C stops it.\n"
        f"  address  {url(settings)}{everywhere}\n"
        f"  key      {shown}\n"
        f"  try      curl -s {proxy}{url(settings)}/generate -H {header} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(EXAMPLE))}"
    )
