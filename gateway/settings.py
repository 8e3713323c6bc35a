"""The gateway's settings: one frozen object, read from the environment once and passed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_API_KEY = "a_default_key_for_testing"  # public, for development; production sets MY_API_KEY


class SettingsError(ValueError):
    """A setting that cannot be used: the message names the variable, what came and what is allowed."""


@dataclass(frozen=True)
class Settings:
    my_api_key: str = DEFAULT_API_KEY
    triton_url: str = "127.0.0.1:8001"  # gRPC address
    model_name: str | None = None  # the default model; None: the first that Triton serves
    host: str = "0.0.0.0"
    port: int = 5002
    max_waiting: int = 256  # requests that may queue before 429
    prefill_chunk: int = 256  # prompt tokens that one step may compute
    recovery_timeout: int = 30  # seconds a text waits for a Triton that does not answer

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """A variable is its field's name in capitals. An empty one counts as not set; an empty key is an error."""
        values: dict[str, Any] = {"my_api_key": _api_key(environment.get("MY_API_KEY", DEFAULT_API_KEY))}
        values |= {name: text for name in _TEXTS if (text := environment.get(name.upper(), "").strip())}
        for name, (lowest, highest) in _INTEGERS.items():
            if text := environment.get(name.upper(), "").strip():
                values[name] = _integer(name.upper(), text, lowest, highest)
        return cls(**values)


_TEXTS = ("triton_url", "model_name", "host")
_INTEGERS = {"port": (1, 65535), "max_waiting": (1, 1_000_000), "prefill_chunk": (1, 1_000_000), "recovery_timeout": (1, 3600)}


def _integer(variable: str, text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and lowest <= int(text) <= highest):
        raise SettingsError(f"{variable} is {text[:40]!r}; it must be a whole number from {lowest} to {highest}.")
    return int(text)


def _api_key(key: str) -> str:
    """A key travels in a header: what a client could not send there would lock everyone out."""
    if not key or not key.isprintable() or key != key.strip():
        shown = "empty" if not key else "not printable or has spaces around it"  # the key itself is a secret
        raise SettingsError(f"MY_API_KEY is {shown}; it must be at least one printable character, without spaces at its ends.")
    return key
