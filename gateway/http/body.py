"""Turns the bytes of a request into a validated body, or into an error that says in one sentence what is wrong."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from gateway.api.schemas.base import NOT_SUPPORTED, UNKNOWN_FIELD, WrongPart, fields_of, nested_schema
from gateway.errors import LONGEST_ECHO, InvalidRequest, Overloaded, echo
from gateway.http.uploads import Uploads

MAXIMUM_BODY = 1 << 20  # bytes
MAXIMUM_DEPTH = 64  # of nested objects and lists
MAXIMUM_PARTS = 1 << 15  # objects, lists and fields together; parsing that many takes tens of milliseconds
PATIENCE = 3.0  # seconds that a large body waits to be parsed
LARGE_BODY = 1 << 13  # bytes; the largest takes tens of milliseconds to parse, on the event loop
BODY_TIMEOUT = 30.0  # seconds for the whole body to arrive
TOO_LARGE = f"The body is larger than {MAXIMUM_BODY} bytes, the most that is accepted."

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows tools put it before UTF-8
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


SomeBody = TypeVar("SomeBody", bound=BaseModel)


class BodyTooLarge(InvalidRequest):
    status = 413
    anthropic_type = "request_too_large"


class RequestTimeout(InvalidRequest):
    """The client sends too slowly and keeps the connection busy, so it is closed."""

    status = 408
    code = "request_timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers["Connection"] = "close"


class UnsupportedEncoding(InvalidRequest):
    status = 415
    code = "unsupported_encoding"


def json_body(schema: type[SomeBody]) -> Callable[[Request], Awaitable[SomeBody]]:
    """A dependency that parses the request body as ``schema``. It runs after the key check: no unauthorized body is parsed."""

    async def read(request: Request) -> SomeBody:
        _require_json(request.headers.get("content-type"))
        _require_plain(", ".join(request.headers.getlist("content-encoding")))
        uploads: Uploads = request.app.state.uploads
        turns: LargeBodies = request.app.state.large_bodies
        owner: str = request.state.caller.name
        with uploads.begin(owner, _declared_length(request)) as hold:
            body = await _read_bytes(request, hold)
            request.state.body_size = len(body)
            return parse(schema, body) if len(body) < LARGE_BODY else await turns.parse(owner, schema, body)

    return read


class LargeBodies:
    """Parses large bodies one at a time, taking turns among keys. After each one, the event loop is left to other work for as
    long as the parsing took."""

    def __init__(self) -> None:
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by the key's name; one body per key waits for _turn_of_all
        self._turn_of_all = asyncio.Lock()
        self._rests_until = 0.0

    async def parse(self, owner: str, schema: type[SomeBody], body: bytes) -> SomeBody:
        """Like `parse`. Raises Overloaded if it has to wait longer than PATIENCE."""
        async with self._turn(owner):
            while (rest := self._rests_until - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            began = time.monotonic()
            try:
                return parse(schema, body)
            finally:
                ended = time.monotonic()
                self._rests_until = ended + (ended - began)

    @asynccontextmanager
    async def _turn(self, owner: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as turns:
            try:
                async with asyncio.timeout(PATIENCE):
                    for turn in (self._turns[owner], self._turn_of_all):
                        await turns.enter_async_context(turn)
            except TimeoutError as error:
                message = "Too many large bodies of this key are being read already. Please try again later."
                raise Overloaded(message, retry_after=1) from error
            yield


def parse(schema: type[SomeBody], body: bytes) -> SomeBody:
    """Parses a body. Raises InvalidRequest, without ``param`` if the body is not a JSON object, with it if a field is wrong."""
    _require_bounded(body)
    try:
        fields = from_json(body)  # the last of duplicate keys wins, as is customary
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"The body must be a JSON object; got {echo(fields)}.")
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _invalid_field(schema, error.errors(include_url=False)[0]) from error


def _require_json(content_type: str | None) -> None:
    media_type, *parameters = (part.strip().lower() for part in (content_type or "application/json").split(";"))
    if media_type in FORMS:  # what curl and HTML send by default
        raise InvalidRequest(
            f"Content-Type is {echo(media_type)}; it must be application/json. With curl: -H 'Content-Type: application/json'."
        )
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise InvalidRequest(f"Content-Type is {echo(media_type)}; it must be application/json.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise InvalidRequest(f"The charset of Content-Type is {echo(value)}; it must be utf-8.")


def _require_plain(content_encoding: str) -> None:
    if any(coding.strip().lower() not in ("", "identity") for coding in content_encoding.split(",")):
        error = UnsupportedEncoding(f"Content-Encoding is {echo(content_encoding)}; the body must come uncompressed.")
        error.headers["Accept-Encoding"] = "identity"
        raise error


def _declared_length(request: Request) -> int:
    """Raises BodyTooLarge before any of it has come."""
    declared = int(request.headers.get("content-length", "0"))  # only digits: RequestReader has checked that
    if declared > MAXIMUM_BODY:
        raise BodyTooLarge(TOO_LARGE)
    return declared


async def _read_bytes(request: Request, hold: Callable[[int], None]) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _read_all(request, hold)
    except TimeoutError as error:
        raise RequestTimeout(f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds.") from error


async def _read_all(request: Request, hold: Callable[[int], None]) -> bytes:
    """``hold``: see `Uploads.begin`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BODY:
            raise BodyTooLarge(TOO_LARGE)
        hold(len(body))
    return bytes(body).removeprefix(BYTE_ORDER_MARK)


def _require_bounded(body: bytes) -> None:
    """Raises InvalidRequest if the JSON is too deep or has too many parts, before it is parsed."""
    containers = body.count(b"[") + body.count(b"{")
    if containers <= MAXIMUM_DEPTH and containers + body.count(b":") <= MAXIMUM_PARTS:
        return  # most bodies need no closer look
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    characters = np.frombuffer(plain, np.uint8)
    outside = ~np.bitwise_xor.accumulate(characters == ord('"'))  # of strings
    opening = ((characters == ord("[")) | (characters == ord("{"))) & outside
    closing = ((characters == ord("]")) | (characters == ord("}"))) & outside
    depth = np.cumsum(opening.astype(np.int32) - closing)
    if depth.max(initial=0) > MAXIMUM_DEPTH:
        message = f"The body has more than {MAXIMUM_DEPTH} objects and lists in each other, the most that is accepted."
        raise InvalidRequest(message)
    names = (characters == ord(":")) & outside
    parts = np.cumsum(opening | names)
    if parts.size and parts[-1] > MAXIMUM_PARTS:
        field, count = _largest_field(plain, np.flatnonzero(names & (depth == 1)), parts)
        message = f"{field or 'The body'} has {count} objects, lists and fields; at most {MAXIMUM_PARTS} are accepted."
        raise InvalidRequest(message, param=field)


def _largest_field(body: bytes, colons: "np.ndarray[Any, Any]", parts: "np.ndarray[Any, Any]") -> tuple[str | None, int]:
    """Which top-level field has too many parts, and how many; None: the body as a whole.

    ``colons``: positions of the colons after the fields' names; ``parts``: number of parts up to each byte.
    """
    counts = np.diff(parts[colons], append=parts[-1])
    if counts.max(initial=0) <= MAXIMUM_PARTS:
        return None, int(parts[-1])
    largest = counts.argmax()
    name = body[: colons[largest]].rpartition(b'"')[0].rpartition(b'"')[2]
    return _shown(name.decode(errors="replace")), int(counts[largest])


def _invalid_field(schema: type[BaseModel], detail: ErrorDetails) -> InvalidRequest:
    path, allowed, within = "", "", schema
    unknown = detail["type"] == UNKNOWN_FIELD
    for part in (*detail["loc"], detail["ctx"]["name"]) if unknown else detail["loc"]:
        if part == "[key]":  # pydantic's marker for an invalid key rather than value
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        fields = fields_of(within)
        if isinstance(part, str) and part in fields:
            allowed = fields[part].description or ""
            within = nested_schema(fields[part].annotation) or within
    path = _shown(path)
    if unknown and (name := detail["ctx"]["name"]) in NOT_SUPPORTED:
        return InvalidRequest(f"{path} is not supported here: {NOT_SUPPORTED[name]}.", param=path)
    if unknown:
        return InvalidRequest(f"{path} is not supported here; the fields that are: {', '.join(fields_of(within))}.", param=path)
    if detail["type"] == "missing":
        return InvalidRequest(f"{path} is missing; it must be {allowed}.", param=path)
    wrong = detail.get("ctx", {}).get("error")
    why = f"; {path}{wrong}" if isinstance(wrong, WrongPart) else ""
    return InvalidRequest(f"{path} is {echo(detail['input'])}{_length(detail)}; it must be {allowed}{why}.", param=path)


def _length(detail: ErrorDetails) -> str:
    """The input's length, if the length is what is wrong."""
    if detail["type"] not in ("too_long", "string_too_long") or len(detail["input"]) == 1:
        return ""
    return f", {len(detail['input'])} {'characters' if isinstance(detail['input'], str) else 'items'}"


def _shown(name: str) -> str:
    """A field's path, unchanged if it is plain; otherwise escaped and truncated, since it has a name that the client chose."""
    return name if name.isascii() and name.isprintable() and len(name) <= LONGEST_ECHO else echo(name)
