"""What the forms share: an answer's id and time, the count of its tokens, log-probabilities."""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.api.response_models import Logprob, TopLogprob, Usage
from gateway.api.schemas.sampling import StreamOptions
from gateway.engine.generation import Delta, TokenLogprob
from gateway.text.model import Model

LOWEST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's word for it


class Serializer(Protocol):
    def whole(self, answers: list[Delta]) -> Any:
        """The answer to a request without a stream; each text as one piece."""

    def events(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[dict[str, Any], None]: ...


class Tally:
    """Counts tokens for the usage. The ``prompts`` were computed once each, however many texts (``copies``) continue them."""

    def __init__(self, prompts: list[list[int]], copies: int) -> None:
        self.prompt_tokens = sum(map(len, prompts))
        self.completion_tokens = 0
        self.cached_tokens = 0
        self._copies = copies

    def note(self, piece: Delta) -> None:
        self.completion_tokens += piece.tokens
        if piece.index % self._copies == 0:  # the others find what the first has just computed
            self.cached_tokens += piece.cached_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def usage(self) -> Usage:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


def usage_in_pieces(options: StreamOptions, tally: Tally) -> dict[str, Usage | None]:
    """What an event of a stream has beside its text. OpenAI: where the usage is asked for, null in all events but the last."""
    if options.continuous_usage_stats:
        return {"usage": tally.usage()}
    return {"usage": None} if options.include_usage else {}


@dataclass(frozen=True)
class Identity:
    """What all pieces of one answer have in common."""

    id: str
    created: int  # Unix time
    model: str
    fingerprint: str | None

    @classmethod
    def new(cls, kind: str, model: Model) -> "Identity":
        return cls(new_id(kind), int(time.time()), model.name, fingerprint(model))

    def envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_id(kind: str) -> str:
    return f"{kind}{secrets.token_hex(12)}"


def fingerprint(model: Model) -> str | None:
    """Changes with whatever may change what a seed gives: weights, precision, provider."""
    value = model.parameters.get("fingerprint")
    return f"fp_{value[:12]}" if value else None


def finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)


def logprob_objects(logprobs: Iterable[TokenLogprob]) -> list[Logprob]:
    return [{**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]} for token in logprobs]


def _logprob(token: TokenLogprob) -> TopLogprob:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.bytes)}
