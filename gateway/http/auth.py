"""Authentication: looks up the key, sent in either of two headers, among those of MY_API_KEY and API_KEYS_FILE.

The duration of a refusal reveals nothing about any key. The sent key is hashed first, so that digests are compared, and nobody
can work towards a matching prefix of a digest. Each comparison takes constant time, and all keys are compared, whichever
matches. The time depends only on the length of the sent key and the number of keys. Nothing else happens before the refusal: no
body is read, no limit is counted, no model is looked up.
"""

import hmac
import logging
import os
import time
from pathlib import Path

from fastapi import Request

from gateway.errors import Unauthorized
from gateway.http.rate_limits import KeyLimits, Usage
from gateway.keys import OWN_NAME, ApiKey, KeyFileError, digest_of, read_keys
from gateway.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds between checks of the key file

Signature = tuple[int, int, int]  # of a file: modification time (ns), inode, size


class KeyRing:
    """The currently accepted keys. Raises SettingsError if the key file cannot be used at startup.

    Later, an unusable file is logged once and the previous keys stay.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.api_keys_file
        self._own: list[ApiKey] = []
        if settings.my_api_key is not None:
            self._own.append(ApiKey(name=OWN_NAME, sha256=digest_of(settings.my_api_key.encode())))
        self._keys: list[ApiKey] = []
        self._signature: Signature | None = None
        self._looked = time.monotonic()
        self._usage: dict[str, Usage] = {}  # by name; kept when the file is reread
        if self._path is not None:
            self._signature = _signature(self._path)
            try:
                self._keys = read_keys(self._path)
            except KeyFileError as error:
                raise SettingsError(f"API_KEYS_FILE: {error}.") from error

    def find(self, given: list[bytes]) -> ApiKey | None:
        """The key that matches one of ``given``, or None; prefers one that has not expired. Takes the same time either way."""
        self._look()
        keys = self._own + self._keys
        found = [key for digest in map(digest_of, given) for key in keys if hmac.compare_digest(digest, key.sha256)]
        return min(found, key=lambda key: key.expired, default=None)

    def limits(self, key: ApiKey) -> KeyLimits:
        return KeyLimits(key, self._usage.setdefault(key.name, Usage()))

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_INTERVAL:
            return
        self._looked = now
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            logger.error("API_KEYS_FILE: %s; the keys that were read before stay.", error)
        else:
            logger.info("API_KEYS_FILE was read again: %d keys", len(self._keys))


async def require_api_key(request: Request) -> None:
    """Accepts requests with a valid ``X-API-Key: KEY`` or ``Authorization: Bearer KEY``; raises Unauthorized otherwise.

    Sets ``request.state.caller`` to the ApiKey and ``request.state.limits`` to its KeyLimits. A POST is counted here, before
    its body is read, so an invalid one costs a request, as at OpenAI (unless the token limit refuses it). Raises RateLimited if
    the minute's requests are used up or too many are running. gateway/http/request_log.py ends the request.
    """
    scheme, _, bearer_token = request.headers.get("authorization", "").partition(" ")
    given = [request.headers.get("x-api-key", ""), bearer_token.strip() if scheme.lower() == "bearer" else ""]
    ring: KeyRing = request.app.state.keys
    # Headers are decoded as Latin-1; encoding them again gives the bytes that the client sent.
    key = ring.find([text.encode("latin-1") for text in given if text])
    if key is None:
        raise Unauthorized
    request.state.record.key = key.name
    if key.expired:
        raise Unauthorized("Unauthorized. The API Key has expired.")
    request.state.caller, request.state.limits = key, ring.limits(key)
    if request.method == "POST":
        request.state.limits.begin_request()


def _signature(path: Path) -> Signature | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
