"""Rate limits of a key: requests and tokens per minute, and concurrent requests.

Requests and tokens are token buckets with a minute's capacity that refill continuously: after a pause a minute's worth may
be used at once, and nobody waits for a new minute to start.
"""

import math
import time
from dataclasses import dataclass, field

from gateway.errors import RateLimited
from gateway.keys import ApiKey

MINUTE = 60.0  # seconds
TYPICAL_ANSWER = 256  # tokens reserved if a client sets no limit for its answer
BUSY_RETRY = 1  # Retry-After in seconds at the concurrency limit: when a request will end is unknown

RATE_LIMIT_HEADERS = [f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")]


@dataclass
class Bucket:
    """Stores what was used, not what is left, so that it stays valid when the limit changes."""

    used: float = 0.0
    updated: float = field(default_factory=time.monotonic)

    def drain(self, per_minute: int) -> None:
        """Refills the bucket for the time since the last update."""
        now = time.monotonic()
        self.used = max(0.0, self.used - (now - self.updated) * per_minute / MINUTE)
        self.updated = now

    def wait(self, amount: int, per_minute: int) -> float:
        """Seconds until ``amount`` fits; 0 if it fits now."""
        self.drain(per_minute)
        return max(0.0, (self.used + amount - per_minute) * MINUTE / per_minute)

    def take(self, amount: float) -> None:
        """Uses ``amount``; a negative amount is given back. Usage may exceed the limit; later requests then wait longer."""
        self.used = max(0.0, self.used + amount)


@dataclass
class Usage:
    """What a key has used. Outlives its entry in the key file."""

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    running: int = 0  # requests, from the key check to the end of the answer


class Reservation:
    """Tokens of a generation, charged to its key in advance. Does nothing if the key has no token limit."""

    def __init__(self, bucket: Bucket, tokens: int, per_minute: int | None) -> None:
        self._bucket, self._tokens, self._per_minute = bucket, tokens, per_minute
        self._began = time.monotonic()
        if per_minute is not None:
            bucket.used += tokens

    def settle(self, spent: int) -> None:
        """Gives back reserved tokens that were not ``spent``, or charges those beyond the reservation. Call it once."""
        if self._per_minute is not None:
            self._bucket.drain(self._per_minute)
            drained = (time.monotonic() - self._began) * self._per_minute / MINUTE  # already refilled; not given back twice
            self._bucket.take(max(spent, min(drained, self._tokens)) - self._tokens)


class KeyLimits:
    """A key's limits when its request arrived, and what this request uses of them."""

    def __init__(self, key: ApiKey, usage: Usage) -> None:
        self._key, self._usage = key, usage
        self._runs = False

    def begin_request(self) -> None:
        """Counts the request, and counts it as running until `end_request`: its upload, tokenization and grammar use the key's
        share just as its generation does.

        Raises RateLimited, and counts nothing, if too many requests are running or the minute's requests are used up.
        """
        self._require_place()
        if (limit := self._key.requests_per_minute) is not None:
            if seconds := self._usage.requests.wait(1, limit):
                raise self._exceeded("requests_per_minute", f"{limit} requests a minute", seconds)
            self._usage.requests.used += 1
        self._usage.running += 1
        self._runs = True

    def end_request(self) -> None:
        """May also be called if `begin_request` was not, or failed."""
        self._usage.running -= self._runs
        self._runs = False

    def reserve(self, prompt_tokens: int, max_tokens: int, *, estimated: bool = False) -> Reservation:
        """Reserves the tokens of a generation. ``estimated``: ``max_tokens`` is only an estimate, so it is reduced to what the
        key's limit allows. Raises RateLimited if too few tokens are left; the request is then not counted."""
        if estimated and self._key.tokens_per_minute is not None:
            max_tokens = max(1, min(max_tokens, self._key.tokens_per_minute - prompt_tokens))
        try:
            self._require_tokens(prompt_tokens, max_tokens)
        except RateLimited:
            self._usage.requests.take(-1)
            raise
        return Reservation(self._usage.tokens, prompt_tokens + max_tokens, self._key.tokens_per_minute)

    def headers(self) -> dict[str, str]:
        """``x-ratelimit-…`` headers in OpenAI's format, for the limits that the key has."""
        headers = {}
        for name, limit, bucket in (
            ("requests", self._key.requests_per_minute, self._usage.requests),
            ("tokens", self._key.tokens_per_minute, self._usage.tokens),
        ):
            if limit is not None:
                bucket.drain(limit)
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(limit - bucket.used)))
                headers[f"x-ratelimit-reset-{name}"] = duration(bucket.used * MINUTE / limit)
        return headers

    def _require_place(self) -> None:
        limit = self._key.concurrent_requests
        if limit is not None and self._usage.running >= limit:
            raise self._exceeded("concurrent_requests", f"{limit} at once, and that many run", BUSY_RETRY)

    def _require_tokens(self, prompt_tokens: int, max_tokens: int) -> None:
        limit, asked = self._key.tokens_per_minute, prompt_tokens + max_tokens
        if limit is None:
            return
        request = f"this request asks for {asked} ({prompt_tokens} of the prompt, at most {max_tokens} of the answer)"
        if asked > limit:
            raise RateLimited(
                f"The key {self._key.name!r} may use {limit} tokens a minute; {request}, which can never fit. "
                "Shorten the prompt or ask for fewer new tokens.",
                limit="tokens_per_minute",
            )
        if seconds := self._usage.tokens.wait(asked, limit):
            left = max(0, math.floor(limit - self._usage.tokens.used))
            raise self._exceeded("tokens_per_minute", f"{limit} tokens a minute, and {left} are left; {request}", seconds)

    def _exceeded(self, limit: str, what: str, seconds: float) -> RateLimited:
        retry_after = math.ceil(seconds)
        message = f"Rate limit reached: the key {self._key.name!r} may use {what}. Please try again in {retry_after}s."
        return RateLimited(message, limit=limit, retry_after=retry_after)


def duration(seconds: float) -> str:
    """In OpenAI's format: ``20ms``, ``1s``, ``6m0s``; rounded up."""
    if 0 < seconds <= 0.999:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
