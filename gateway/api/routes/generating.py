"""Shared by the generating routes: prepares a generation from a request body, and turns its output into a response."""

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

MOST_LOGPROBS = 200_000  # per request, including alternatives: limits a response to about 15 MB

Tokenize = Callable[[Model], list[list[int]]]


@dataclass(frozen=True)
class Prepared:
    """A generation that is ready to start."""

    engine: Engine
    requests: list[GenerationRequest]  # one per output
    record: GenerationRecord
    open_ended: bool  # whether the client set no maximum length
    logprobs: bool  # whether any log-probabilities are requested

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each distinct prompt."""
        return [one.prompt_tokens for one in self.requests[:: self.record.copies]]


async def prepare(request: Request, body: SamplingBody, tokenize: Tokenize) -> Prepared:
    """Resolves the model, compiles the grammar and tokenizes the prompts. Raises TidegateError if one of them is invalid."""
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
    """Runs the generation and responds. Raises RateLimited, or the generation's error if it fails before the first output."""
    generation = _begin(request, prepared, whole=not stream)
    deltas = await first_of(generation, request)
    if stream:
        return EventStream(generation, serializer, deltas)
    if prepared.logprobs:  # possibly megabytes
        return Response(await asyncio.to_thread(_written, serializer, deltas), media_type="application/json")
    return JSONResponse(serializer.whole(deltas))


def _begin(request: Request, prepared: Prepared, whole: bool) -> Generation:
    """Reserves tokens and starts the generation. At the end, unused tokens are returned, or all of them if an error came before
    any output. A client that disconnects is charged for the prompt and what was generated."""
    record: GenerationRecord = prepared.record
    most = [_most_tokens(prepared.engine.model, one) for one in prepared.requests]
    if prepared.open_ended:  # reserving the whole context would reject limited keys needlessly
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
    """Serializes the response as JSON, one choice at a time: the library holds the GIL while it writes."""
    answer = serializer.whole(answers)
    if not answer.get("choices"):
        return to_json(answer)
    choices = [to_json(choice) for choice in answer["choices"]]
    before, _, after = to_json(answer | {"choices": [0]}).partition(b'"choices":[0]')
    return before + b'"choices":[' + b",".join(choices) + b"]" + after


def _most_tokens(model: Model, request: GenerationRequest) -> int:
    return min(request.max_tokens, max(0, model.context_length - len(request.prompt_tokens)))


def _of_prompt(request: GenerationRequest) -> int:
    """The number of log-probabilities returned for the prompt."""
    return 0 if request.prompt_logprobs is None else (1 + request.prompt_logprobs) * len(request.prompt_tokens)


def _with_few_logprobs(requests: list[GenerationRequest]) -> list[GenerationRequest]:
    """Limits open-ended outputs to the length that MOST_LOGPROBS allows."""
    if requests[0].logprobs is None:
        return requests
    left = MOST_LOGPROBS - sum(map(_of_prompt, requests))
    most = max(1, left // len(requests) // (1 + requests[0].logprobs))
    return [replace(one, max_tokens=min(one.max_tokens, most)) for one in requests]


def _require_few_logprobs(body: SamplingBody, model: Model, requests: list[GenerationRequest]) -> None:
    """Raises InvalidRequest if too many log-probabilities are requested. They stay in memory until the response is complete, a
    few hundred bytes each."""
    of_prompts = sum(map(_of_prompt, requests))
    of_answers = sum((1 + one.logprobs) * _most_tokens(model, one) for one in requests if one.logprobs is not None)
    if (count := of_prompts + of_answers) > MOST_LOGPROBS:
        field = "top_logprobs" if "top_logprobs" in type(body).model_fields else "logprobs"
        if of_prompts > of_answers and "prompt_logprobs" in body.model_fields_set:
            field = "prompt_logprobs"
        asked = f"{field}: this request may be answered with {count} log-probabilities; at most {MOST_LOGPROBS} are returned"
        raise InvalidRequest(f"{asked}. Ask for fewer tokens, answers, prompts or alternatives.", param=field)


def _requests(model: Model, body: SamplingBody, tokenize: Tokenize, matcher: Matcher | None) -> list[GenerationRequest]:
    """Returns one request per prompt."""
    return [body.generation(tokens, matcher) for tokens in tokenize(model)]


def _matcher(body: SamplingBody, made: Callable[[], Matcher | None]) -> Matcher | None:
    """Calls ``made``. Raises InvalidRequest with this route's name for the format field."""
    try:
        return made()
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(PARAM, body.format_field, 1), param=body.format_field) from error
