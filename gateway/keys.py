"""API keys in a file (API_KEYS_FILE). The commands to create, revoke and list them are in gateway/key_commands.py.

The file is JSON. All but the first two fields may be omitted or null, meaning no expiry, no limit, every model::

    {"keys": [{
        "name": "alice",                          for logs: letters, digits and . _ @ -, unique
        "sha256": "9f86d081884c7d65…",            of the key's bytes, 64 hexadecimal digits
        "expires": "2027-01-01T00:00:00+00:00",   ISO 8601 with a time zone
        "requests_per_minute": 60,
        "tokens_per_minute": 100000,              prompt and answer together
        "concurrent_requests": 4,                 from upload to the end of the answer
        "models": ["smollm2-135m-instruct-q4_1"]  names as in /v1/models
    }]}

A key is 256 random bits. Nobody can guess those, however fast the hash, so SHA-256 suffices; slow hashes are for passwords.
"""

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

OWN_NAME = "default"  # the name of MY_API_KEY's key; reserved, so no key in a file may have it
KEY_PREFIX = "tg-"
NAME = r"^[A-Za-z0-9._@-]{1,64}$"

Limit = Annotated[int, Field(ge=1, le=10**12)]


class KeyFileError(ValueError):
    """The key file cannot be used. The message says why and contains no secrets."""


class ApiKey(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    expires: AwareDatetime | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    models: tuple[str, ...] | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires

    def may_use(self, model_name: str) -> bool:
        return self.models is None or model_name in self.models


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: list[ApiKey]

    @field_validator("keys")
    @classmethod
    def _each_once(cls, keys: list[ApiKey]) -> list[ApiKey]:
        names = [OWN_NAME] + [key.name for key in keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the name {min(twice)!r} is taken twice ({OWN_NAME!r} is MY_API_KEY's)")
        if len({key.sha256 for key in keys}) < len(keys):
            raise ValueError("two keys have the same sha256")
        return keys


def digest_of(key: bytes) -> str:
    """The SHA-256 of a key as stored in the file: hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """Reads the key file. Raises KeyFileError, which names the invalid field."""
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        # Not the error's own text: it quotes the input, which may be a key in the wrong place.
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in detail["loc"] if isinstance(part, int) or part in _FIELDS) or "the document"
        raise KeyFileError(f"{path}: {place}: {detail['msg']}") from None


_FIELDS = {"keys", *ApiKey.model_fields}


@contextmanager
def edited(path: Path) -> Iterator[list[ApiKey]]:
    """The file's keys, to be changed in place; written at the end of the block. Other editors wait meanwhile.

    Readers see either the old or the new file, never half of one. The lock is on the directory, since the file is replaced.
    """
    path = path.resolve()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        _replace(path, KeyFile(keys=keys).model_dump_json(indent=2, exclude_none=True) + "\n")
        os.fsync(directory)
    finally:
        os.close(directory)


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
            if path.exists() and os.geteuid() == 0:  # edited by root, but the gateway must be able to read it
                os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def create(path: Path, name: str, **limits: object) -> str:
    """Creates and returns a new key. Only its hash is stored, so a lost key cannot be recovered."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    with edited(path) as keys:
        if name in [OWN_NAME, *(old.name for old in keys)]:
            raise KeyFileError(f"there is a key named {name!r} already")
        keys.append(ApiKey.model_validate({"name": name, "sha256": digest_of(key.encode())} | limits))
    return key


def revoke(path: Path, name: str) -> None:
    read_keys(path)  # fails if there is no file, rather than creating one
    with edited(path) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise KeyFileError(f"there is no key named {name!r}")
        keys[:] = kept


if __name__ == "__main__":  # in the gateway's container, which has no `tidegate`
    from gateway.key_commands import main

    main()
