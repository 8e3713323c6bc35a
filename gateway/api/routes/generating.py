"""What the generating routes share: from a body to the texts under way, and from their pieces to the answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json

from gateway.api.accounting import accounted
from gateway.api.routes.models import engine_for
from gateway.api.schemas import SamplingBody
from gateway.api.serializers.common import Serializer
from gateway.engine.generation import Delta, GenerationRequest
from gateway.engine.parallel_sampling import generate_all, several
from gateway.errors import InvalidRequest
from gateway.http.streaming import EventStream, complete
from gateway.telemetry.request_record import RequestRecord
from gateway.text.grammar import PARAM, Matcher
from gateway.text.model import Model

MOST_LOGPROBS = 200_000  # of a request, alternatives too: the largest answer has about 15 MB then

Tokenize = Callable[[Model], list[list[int]]]


@dataclass(frozen=True)
class Texts:
    """Under way, or about to be: ``copies`` texts continue each of the ``prompts``."""

    model: Model
    prompts: list[list[int]]  # tokens
    copies: int
    logprobs: bool  # of their tokens
    deltas: AsyncGenerator[Delta, None]


async def begin(request: Request, body: SamplingBody, tokenize: Tokenize) -> Texts:
    """Raises what is wrong with the model's name, the prompts or the grammar; other errors come with the first piece."""
    engine, owner, size = engine_for(request, body.model), request.state.caller.name, request.state.body_size
    engine.require_room(owner)
    model = engine.model
    matcher = None
    if grammar := body.grammar():
        matcher = _matcher(body, partial(model.known_grammar, grammar))
        if matcher is None:
            compile_ = partial(_matcher, body, partial(model.compile_grammar, grammar))
            matcher = await request.app.state.compiling.run(owner, compile_, size)
    asked = await request.app.state.tokenizing.run(owner, partial(_requests, model, body, tokenize, matcher), size)
    record: RequestRecord = request.state.record
    if (trace := record.trace) is not None:
        trace.generates(body.model, model, asked[0], len(asked) * body.copies, body.stream)
    asked = [replace(one, owner=owner, request_id=record.request_id, trace=trace) for one in asked]
    texts = [text for one in asked for text in several(one, body.copies)]
    prompts = [one.prompt_tokens for one in asked]
    _require_few_logprobs(body, model, texts)
    longest = sum(min(text.max_tokens, max(0, model.context_length - len(text.prompt_tokens))) for text in texts)
    deltas = accounted(request, model, sum(map(len, prompts)), longest, generate_all(engine, texts), copies=body.copies)
    return Texts(model, prompts, body.copies, body.alternatives is not None, deltas)


async def respond(
    request: Request, texts: Texts, serializer: Serializer, stream: bool, form: type[EventStream] = EventStream
) -> Response:
    if stream:
        return await form.open(request, texts.deltas, serializer.events)
    answers = await complete(request, texts.deltas, len(texts.prompts) * texts.copies)
    if texts.logprobs:  # some megabytes, perhaps
        return Response(await asyncio.to_thread(_written, serializer, answers), media_type="application/json")
    return JSONResponse(serializer.whole(answers))


def _written(serializer: Serializer, answers: list[Delta]) -> bytes:
    """As JSON. Each text by itself: while the library writes, no other thread runs."""
    answer = serializer.whole(answers)
    choices = [to_json(choice) for choice in answer.get("choices", [])]
    before, placeholder, after = to_json(answer | {"choices": [0]} if choices else answer).partition(b'"choices":[0]')
    return before + (b'"choices":[' + b",".join(choices) + b"]" if placeholder else b"") + after


def _require_few_logprobs(body: SamplingBody, model: Model, texts: list[GenerationRequest]) -> None:
    """Raises InvalidRequest: they are kept until the answer is whole, some hundred bytes each."""
    count = 0
    for text in texts:
        if text.logprobs is not None:
            tokens = min(text.max_tokens, max(0, model.context_length - len(text.prompt_tokens)))
            count += (1 + text.logprobs) * (tokens + text.prompt_logprobs * len(text.prompt_tokens))
    if count > MOST_LOGPROBS:
        field = "top_logprobs" if "top_logprobs" in type(body).model_fields else "logprobs"
        asked = (
            f"{field}: this request may be answered with {count} log-probabilities; at most {MOST_LOGPROBS} are told at once"
        )
        raise InvalidRequest(f"{asked}. Ask for fewer tokens, answers, prompts or alternatives.", param=field)


def _requests(model: Model, body: SamplingBody, tokenize: Tokenize, matcher: Matcher | None) -> list[GenerationRequest]:
    """One a prompt."""
    return [body.generation(tokens, matcher) for tokens in tokenize(model)]


def _matcher(body: SamplingBody, made: Callable[[], Matcher | None]) -> Matcher | None:
    """Raises InvalidRequest in the name of the field that this route calls it by."""
    try:
        return made()
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(PARAM, body.format_field, 1), param=body.format_field) from error
