"""Shared by the serializers: event encoding, response ids and times, usage, log-probabilities."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import to_json

from gateway.api.response_models import Logprob, PromptLogprob, PromptLogprobs, TopLogprob, Usage
from gateway.api.schemas.sampling import CompletionBase
from gateway.engine.generation import Delta, GenerationRecord, TokenLogprob
from gateway.text.model import Model

LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for −infinity, which JSON lacks
DONE = b"data: [DONE]\n\n"
# U+0085, U+2028 and U+2029: legal inside JSON, but some clients split lines there.
LINE_SEPARATORS = {separator.encode(): f"\\u{ord(separator):04x}".encode() for separator in "\u0085\u2028\u2029"}
HOLE = "\0"  # never occurs in an id or a model's name

Event = dict[str, Any]


class Serializer(ABC):
    """Formats the outputs of one request: whole, or as server-sent events with a final event that ends the stream."""

    @abstractmethod
    def whole(self, answers: list[Delta]) -> Any:
        """Returns the whole response. ``answers``: the outputs, each in one piece."""

    def begin(self) -> bytes:
        """Returns the events before any text."""
        return b""

    @abstractmethod
    def events(self, delta: Delta) -> bytes:
        """Returns the events of one piece, or none if it has nothing to show."""

    def end(self) -> bytes:
        return DONE

    def failure(self, error: Event) -> bytes:
        """Ends a stream with an error, instead of `end`: the HTTP status has already been sent."""
        return server_sent(error) + DONE


def server_sent(event: Event) -> bytes:
    return b"data: " + json_line(event) + b"\n\n"


def named_event(event: Event) -> bytes:
    """Encodes an event with its type repeated on an ``event:`` line."""
    return b"event: " + event["type"].encode() + b"\ndata: " + json_line(event) + b"\n\n"


def json_line(value: Any) -> bytes:
    data = to_json(value)
    if not data.isascii():
        for separator, escape in LINE_SEPARATORS.items():
            data = data.replace(separator, escape)
    return data


class TextEvents:
    """Encodes events that differ only in their text and output index. Everything else is serialized once per index."""

    def __init__(self) -> None:
        self._around: dict[int, tuple[bytes, bytes]] = {}  # index → bytes before and after the text

    def write(self, delta: Delta, event: Callable[[str], Event]) -> bytes:
        """``event`` builds an event from a text. It is called once per index and not stored, to avoid a reference cycle."""
        if delta.index not in self._around:
            before, after = server_sent(event(HOLE)).split(to_json(HOLE))
            self._around[delta.index] = before, after
        before, after = self._around[delta.index]
        return before + json_line(delta.text) + after


class ChoiceSerializer(Serializer):
    """Base of OpenAI's two older routes: choices in an envelope, with the usage if requested."""

    def __init__(self, body: CompletionBase, record: GenerationRecord, head: Event) -> None:
        self._body, self._record, self._head = body, record, head
        self._options = body.stream_options
        # Whether the events between an output's first and last differ only in their text.
        plain = body.alternatives is None and not self._options.continuous_usage_stats
        self._plain = plain and not body.return_token_ids

    def end(self) -> bytes:
        if not self._options.include_usage:
            return super().end()
        return server_sent(self._head | {"choices": [], "usage": usage_of(self._record)}) + super().end()

    def _event(self, choice: Any) -> Event:
        """As in OpenAI's API: if the usage is requested, it is null in all events but the last."""
        event = self._head | {"choices": [choice]}
        if self._options.continuous_usage_stats:
            event["usage"] = usage_of(self._record)
        elif self._options.include_usage:
            event["usage"] = None
        return event


def usage_of(record: GenerationRecord) -> Usage:
    return {
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "total_tokens": record.total_tokens,
        "prompt_tokens_details": {"cached_tokens": record.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def envelope(prefix: str, kind: str, model: Model) -> Event:
    """Returns the fields common to all events of one response. ``prefix``: of its id."""
    return {
        "id": new_id(prefix),
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": _fingerprint(model),
    }


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def _fingerprint(model: Model) -> str | None:
    """Changes with anything that may change the output of a seed: weights, precision, provider."""
    value = model.parameters.get("fingerprint")
    return f"fp_{value[:12]}" if value else None


def finite(logprob: float | None) -> float:
    return LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)


def logprob_objects(logprobs: Iterable[TokenLogprob]) -> list[Logprob]:
    return [{**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]} for token in logprobs]


def prompt_logprob_objects(logprobs: Iterable[TokenLogprob], alternatives: int) -> PromptLogprobs:
    """Returns log-probabilities in vLLM's form: by token id, the prompt's own token first."""
    return [None if token.logprob is None else _of_position(token, token.top[:alternatives]) for token in logprobs]


def _of_position(token: TokenLogprob, top: tuple[TokenLogprob, ...]) -> dict[str, PromptLogprob]:
    ranked = [(token, token.rank or 0), *((other, rank) for rank, other in enumerate(top, 1) if other.token != token.token)]
    return {str(one.token): {"logprob": finite(one.logprob), "rank": rank, "decoded_token": one.text} for one, rank in ranked}


def _logprob(token: TokenLogprob) -> TopLogprob:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.bytes)}
