"""What the generating routes share: from a body to the generation that it asks for, and from its pieces to the answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json

from gateway.api.routes.models import engine_for
from gateway.api.schemas import SamplingBody
from gateway.api.serializers.common import Serializer
from gateway.engine.engine import Engine
from gateway.engine.generation import Delta, Generation, GenerationRecord, GenerationRequest
from gateway.errors import InvalidRequest
from gateway.http.rate_limits import TYPICAL_ANSWER, KeyLimits
from gateway.http.streaming import EventStream, first_of
from gateway.telemetry.metrics import GenerationMetrics
from gateway.telemetry.request_record import RequestRecord
from gateway.text.grammar import PARAM, Matcher
from gateway.text.model import Model

MOST_LOGPROBS = 200_000  # of a request, alternatives too: the largest answer has about 15 MB then

Tokenize = Callable[[Model], list[list[int]]]


@dataclass(frozen=True)
class Prepared:
    """A generation that is about to begin."""

    engine: Engine
    requests: list[GenerationRequest]  # one an answer
    record: GenerationRecord
    open_ended: bool  # whether the client leaves the answer's length to the model
    logprobs: bool  # whether any are asked for

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each, once."""
        return [one.prompt_tokens for one in self.requests[:: self.record.copies]]


async def prepare(request: Request, body: SamplingBody, tokenize: Tokenize) -> Prepared:
    """Raises what is wrong with the model's name, the prompts or the grammar."""
    engine, owner, size = engine_for(request, body.model), request.state.caller.name, request.state.body_size
    engine.require_room(owner)
    model = engine.model
    matcher = None
    if use := body.tool_use:
        matcher = await request.app.state.compiling.run(owner, partial(model.tools.matcher, use), size)
    elif grammar := body.grammar():
        matcher = _matcher(body, partial(model.known_grammar, grammar))
        if matcher is None:
            compile_ = partial(_matcher, body, partial(model.compile_grammar, grammar))
            matcher = await request.app.state.compiling.run(owner, compile_, size)
    asked = await request.app.state.tokenizing.run(owner, partial(_requests, model, body, tokenize, matcher), size)
    record: RequestRecord = request.state.record
    if (trace := record.trace) is not None:
        trace.generates(body.model, model, asked[0], len(asked) * body.copies, body.stream)
    visible = model.tools.visible_tokens if use else frozenset[int]()
    about = {"owner": owner, "request_id": record.request_id, "trace": trace, "visible_tokens": visible}
    asked = [replace(one, **about) for one in asked]
    requests = [copy for one in asked for copy in one.copies(body.copies)]
    open_ended = body.answer_tokens is None
    if open_ended:
        requests = _with_few_logprobs(requests)
    _require_few_logprobs(body, model, requests)
    tally = GenerationRecord(sum(len(one.prompt_tokens) for one in asked), body.copies)
    logprobs = any(count is not None for count in (requests[0].logprobs, requests[0].prompt_logprobs))
    return Prepared(engine, requests, tally, open_ended, logprobs)


async def respond(request: Request, prepared: Prepared, serializer: Serializer, stream: bool) -> Response:
    """Raises RateLimited, and what the generation ends with before there is anything to send."""
    generation = _begin(request, prepared, whole=not stream)
    deltas = await first_of(generation, request)
    if stream:
        return EventStream(generation, serializer, deltas)
    if prepared.logprobs:  # some megabytes, perhaps
        return Response(await asyncio.to_thread(_written, serializer, deltas), media_type="application/json")
    return JSONResponse(serializer.whole(deltas))


def _begin(request: Request, prepared: Prepared, whole: bool) -> Generation:
    """With its tokens reserved. At the end what was not generated is given back; all of it where an error came before any text.
    A client that leaves has used its prompt, and what was generated."""
    record: GenerationRecord = prepared.record
    most = [_most_tokens(prepared.engine.model, one) for one in prepared.requests]
    if prepared.open_ended:  # the rest of the context would refuse keys with limits for nothing
        most = [min(TYPICAL_ANSWER, tokens) for tokens in most]
    limits: KeyLimits = request.state.limits
    reservation = limits.reserve(record.prompt_tokens, sum(most), estimated=prepared.open_ended)
    metrics = GenerationMetrics(request.app.state.metrics, prepared.engine.model.name, request.state.record)
    request.state.record.generation = record

    def note_end(error: Exception | None) -> None:
        nothing = error is not None and not record.completion_tokens
        reservation.settle(0 if nothing else record.total_tokens)
        metrics.note_end(record)

    requests, note_tokens = prepared.requests, metrics.note_tokens
    return prepared.engine.generate(requests, record, note_tokens=note_tokens, note_end=note_end, whole=whole)


def _written(serializer: Serializer, answers: list[Delta]) -> bytes:
    """As JSON. Each text by itself: while the library writes, no other thread runs."""
    answer = serializer.whole(answers)
    if not answer.get("choices"):
        return to_json(answer)
    choices = [to_json(choice) for choice in answer["choices"]]
    before, _, after = to_json(answer | {"choices": [0]}).partition(b'"choices":[0]')
    return before + b'"choices":[' + b",".join(choices) + b"]" + after


def _most_tokens(model: Model, request: GenerationRequest) -> int:
    return min(request.max_tokens, max(0, model.context_length - len(request.prompt_tokens)))


def _of_prompt(request: GenerationRequest) -> int:
    """Log-probabilities of its prompt."""
    return 0 if request.prompt_logprobs is None else (1 + request.prompt_logprobs) * len(request.prompt_tokens)


def _with_few_logprobs(requests: list[GenerationRequest]) -> list[GenerationRequest]:
    """Answers of no given length are as long as their log-probabilities allow."""
    if requests[0].logprobs is None:
        return requests
    left = MOST_LOGPROBS - sum(map(_of_prompt, requests))
    most = max(1, left // len(requests) // (1 + requests[0].logprobs))
    return [replace(one, max_tokens=min(one.max_tokens, most)) for one in requests]


def _require_few_logprobs(body: SamplingBody, model: Model, requests: list[GenerationRequest]) -> None:
    """Raises InvalidRequest: they are kept until the answer is whole, some hundred bytes each."""
    of_prompts = sum(map(_of_prompt, requests))
    of_answers = sum((1 + one.logprobs) * _most_tokens(model, one) for one in requests if one.logprobs is not None)
    if (count := of_prompts + of_answers) > MOST_LOGPROBS:
        field = "top_logprobs" if "top_logprobs" in type(body).model_fields else "logprobs"
        if of_prompts > of_answers and "prompt_logprobs" in body.model_fields_set:
            field = "prompt_logprobs"
        asked = f"{field}: this request may be answered with {count} log-probabilities; at most {MOST_LOGPROBS} are returned"
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
