"""Who asks: the key, in either of two headers, looked for among those of MY_API_KEY and API_KEYS_FILE.

How long a refusal takes tells nothing of any key. What came is hashed first, so comparisons are of digests, whose agreement in
some first bytes nobody can work towards; each of them takes constant time, and all keys are compared, whichever matches. The
time depends on the length of what came and on how many keys there are. Nothing else happens before the answer: no body is read,
no limit is counted, no model is looked for.
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

LOOK_INTERVAL = 1.0  # seconds between looks at the file of keys

Signature = tuple[int, int, int]  # of a file: when it was changed (ns), its inode, its size


class KeyRing:
    """The keys that are accepted now. Raises SettingsError where the file of keys cannot be used at the start.

    Later a file that cannot be used is logged, once, and the keys that were read before stay.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.api_keys_file
        self._own: list[ApiKey] = []
        if settings.my_api_key is not None:
            self._own.append(ApiKey(name=OWN_NAME, sha256=digest_of(settings.my_api_key.encode())))
        self._keys: list[ApiKey] = []
        self._signature: Signature | None = None
        self._looked = time.monotonic()
        self._usage: dict[str, Usage] = {}  # by name: what was used stays used when the file is read again
        if self._path is not None:
            self._signature = _signature(self._path)
            try:
                self._keys = read_keys(self._path)
            except KeyFileError as error:
                raise SettingsError(f"API_KEYS_FILE: {error}.") from error

    def find(self, given: list[bytes]) -> ApiKey | None:
        """The key whose text is one of ``given``, rather one that has not expired. Takes as long whichever matches."""
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
    """Lets a request pass whose ``X-API-Key: KEY`` or ``Authorization: Bearer KEY`` is right; raises Unauthorized otherwise.

    Afterwards ``request.state.caller`` is the ApiKey and ``request.state.limits`` what it may still use. A POST begins here:
    a mistake costs a request, as at OpenAI (one that another limit refuses gets it back), and its body is not read where the
    minute's requests are used up, or as many run as may. Raises RateLimited then. gateway/http/request_log.py ends it.
    """
    scheme, _, bearer_token = request.headers.get("authorization", "").partition(" ")
    given = [request.headers.get("x-api-key", ""), bearer_token.strip() if scheme.lower() == "bearer" else ""]
    ring: KeyRing = request.app.state.keys
    # Headers arrive decoded as Latin-1: encoded again they are the bytes that the client sent.
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
