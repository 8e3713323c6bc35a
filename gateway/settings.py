"""The gateway's settings: one frozen object, read from the environment once and passed in."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.misspelt import misspelt

DEFAULT_API_KEY = "a_default_key_for_testing"  # public, for development; production sets MY_API_KEY or API_KEYS_FILE
LONGEST_KEY = 4096  # bytes, in a file
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/,?#@]+")  # as browsers send it: a scheme, a host, maybe a port; no path


class SettingsError(ValueError):
    """An invalid setting. The message names the variable, its value and what is allowed."""


@dataclass(frozen=True)
class Settings:
    my_api_key: str | None = DEFAULT_API_KEY  # None: only the keys of api_keys_file are accepted
    triton_url: str = "127.0.0.1:8001"  # gRPC addresses, comma-separated; every IP address of a name is used
    model_name: str | None = None  # the default model; None: the first that Triton serves
    host: str = "0.0.0.0"
    port: int = 5002
    max_waiting: int = 256  # requests that may queue before 429
    queue_timeout: int = 60  # seconds a request may queue before 429
    prefill_chunk: int = 256  # prompt tokens that one step may compute
    speculation: bool = True  # draft tokens and verify several per step; same output, sooner
    run_ahead: int = 25  # milliseconds per step for tokens that Triton draws itself; 0: none
    recovery_timeout: int = 30  # seconds a sequence waits for a Triton that does not answer
    drain_delay: int = 0  # seconds a stopping gateway still accepts connections, while /readyz already answers 503
    grace_period: int = 2  # seconds running sequences then have to finish
    api_keys_file: Path | None = None  # format: see gateway/keys.py
    allow_default_key: bool = True  # off in containers, where nobody at a terminal sees the warning
    cors_origins: tuple[str, ...] = ("*",)  # origins whose pages may call the API; empty: none but our own
    log_format: str = "text"  # or "json": one object per line
    otel_exporter_otlp_endpoint: str | None = None  # of a collector that accepts traces over HTTP; None: no traces

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """A variable is its field's name in capitals. An empty one counts as unset, with two exceptions: an empty key is an
        error, and an empty ALLOW_DEFAULT_KEY means off, so that it cannot re-enable what an image has turned off. A misspelt
        variable is an error too."""
        refuse_misspelt(environment, VARIABLES)
        values: dict[str, Any] = {name: text for name in _TEXTS if (text := environment.get(name.upper(), "").strip())}
        for name, (lowest, highest) in INTEGERS.items():
            if text := environment.get(name.upper(), "").strip():
                values[name] = _integer(name.upper(), text, lowest, highest)
        if text := environment.get("API_KEYS_FILE", "").strip():
            values["api_keys_file"] = _keys_file(text)
        if text := environment.get("CORS_ORIGINS", "").strip():
            values["cors_origins"] = _origins(text)
        if text := environment.get("LOG_FORMAT", "").strip():
            values["log_format"] = _choice("LOG_FORMAT", text, LOG_FORMATS)
        if text := environment.get("SPECULATION", "").strip():
            values["speculation"] = _choice("SPECULATION", text, SWITCH) == "on"
        if text := environment.get("RUN_AHEAD", "").strip():
            values["run_ahead"] = 0 if text == "off" else _integer("RUN_AHEAD", text, 1, LONGEST_RUN_AHEAD, "off, or ")
        if text := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
            values["otel_exporter_otlp_endpoint"] = _collector(text, environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip())
        if (switch := environment.get("ALLOW_DEFAULT_KEY")) is not None:
            values["allow_default_key"] = _choice("ALLOW_DEFAULT_KEY", switch.strip() or "off", SWITCH) == "on"
        # With a key file, there is no public default key.
        default_key = None if "api_keys_file" in values else DEFAULT_API_KEY
        settings = cls(my_api_key=_api_key(environment, default_key), **values)
        if settings.my_api_key == DEFAULT_API_KEY and not settings.allow_default_key:
            raise SettingsError(
                f"The key would be {DEFAULT_API_KEY}, which everyone knows, and ALLOW_DEFAULT_KEY is 'off'. "
                "Set a key: MY_API_KEY=something-secret, MY_API_KEY_FILE or API_KEYS_FILE; or ALLOW_DEFAULT_KEY=on for a trial."
            )
        return settings

    @property
    def longest_stop(self) -> int:
        """Seconds that a stop may take, for callers that kill a gateway that does not exit in time."""
        return self.drain_delay + self.grace_period + 3


VARIABLES = {field.name.upper() for field in fields(Settings)} | {"MY_API_KEY_FILE"}
_TEXTS = ("triton_url", "model_name", "host")
INTEGERS = {
    "port": (1, 65535),
    "max_waiting": (1, 1_000_000),
    "prefill_chunk": (1, 1_000_000),
    "recovery_timeout": (1, 3600),
    "queue_timeout": (1, 3600),
    "drain_delay": (0, 3600),
    "grace_period": (0, 3600),
}
LONGEST_RUN_AHEAD = 1000  # milliseconds
LOG_FORMATS = ("text", "json")
SWITCH = ("on", "off")


def refuse_misspelt(environment: Mapping[str, str], known: Iterable[str]) -> None:
    if found := misspelt(environment, known):
        name, meant = found
        raise SettingsError(
            f"{name} is set, and no setting has that name; did you mean {meant}? "
            f"(If it belongs to another program: `env -u {name} …` starts this one without it.)"
        )


def _integer(variable: str, text: str, lowest: int, highest: int, others: str = "") -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and lowest <= int(text) <= highest):
        raise SettingsError(f"{variable} is {text[:40]!r}; it must be {others}a whole number from {lowest} to {highest}.")
    return int(text)


def _api_key(environment: Mapping[str, str], default: str | None) -> str | None:
    """The key from MY_API_KEY or from the file that MY_API_KEY_FILE names.

    Keys are sent in a header. A key that cannot be sent there would lock everyone out, so it is an error.
    """
    whose, key = "MY_API_KEY is", environment.get("MY_API_KEY", default)
    if file := environment.get("MY_API_KEY_FILE", "").strip():
        if "MY_API_KEY" in environment:
            raise SettingsError("MY_API_KEY and MY_API_KEY_FILE are both set; the key comes from one of them: unset the other.")
        whose, key = "MY_API_KEY_FILE names a file whose key is", _key_in(file)
    if key is not None and (not key or not key.isprintable() or key != key.strip()):
        shown = "empty" if not key else "not printable or has spaces around it"  # the key itself is a secret
        raise SettingsError(f"{whose} {shown}; it must be at least one printable character, without spaces at its ends.")
    return key


def _key_in(file: str) -> str:
    """The key in a file, such as a mounted container secret: the whole file except trailing newlines."""
    try:
        with Path(file).expanduser().open("rb") as opened:
            content = opened.read(LONGEST_KEY + 1)
        if len(content) > LONGEST_KEY:
            raise SettingsError(
                f"MY_API_KEY_FILE is {file!r}, which has more than {LONGEST_KEY} bytes; it must hold a key alone."
            )
        return content.decode().rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"MY_API_KEY_FILE is {file!r}, which cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"MY_API_KEY_FILE is {file!r}, which is not UTF-8; it must hold a key alone.") from error


def _keys_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        make = f"tidegate keys create NAME --file {text}"
        raise SettingsError(f"API_KEYS_FILE is {text!r}; there is no such file. `{make}` makes it, with a first key.")
    return path


def _origins(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    if origins == ("*",):
        return origins
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            allowed = "`*` (all), `none`, or origins separated by commas, such as https://chat.example:8443"
            raise SettingsError(f"CORS_ORIGINS has {origin[:80]!r}; it must be {allowed}.")
    return origins


def _choice(variable: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise SettingsError(f"{variable} is {text[:40]!r}; it must be one of {', '.join(allowed)}.")
    return text


def _collector(endpoint: str, protocol: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", endpoint):
        allowed = "an HTTP address, such as http://collector:4318"
        raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint[:80]!r}; it must be {allowed}.")
    if protocol not in ("", "http/protobuf"):
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol[:40]!r}; it must be http/protobuf: traces go over HTTP.")
    return endpoint
