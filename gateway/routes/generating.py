"""What the generating routes share: from a body to the texts under way, and from their pieces to the answer."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from gateway.accounting import accounted
from gateway.body import MAXIMUM_BODY
from gateway.errors import InvalidRequest
from gateway.generation import Delta, GenerationRequest
from gateway.grammar import PARAM, Matcher
from gateway.model import Model
from gateway.routes.models import engine_for
from gateway.schemas import SamplingBody
from gateway.several import generate_all, several
from gateway.streaming import EventStream, complete
from gateway.writers.common import Writer

Tokenize = Callable[[Model], list[list[int]]]


@dataclass(frozen=True)
class Texts:
    """Under way, or about to be: ``copies`` texts continue each of the ``prompts``."""

    model: Model
    prompts: list[list[int]]  # tokens
    copies: int
    deltas: AsyncGenerator[Delta, None]


async def begin(request: Request, body: SamplingBody, tokenize: Tokenize) -> Texts:
    """Raises what is wrong with the model's name, the prompts or the grammar; other errors come with the first piece."""
    engine, owner = engine_for(request, body.model), request.state.caller.name
    engine.require_room(owner)
    model = engine.model
    matcher = None
    if grammar := body.grammar():
        matcher = _matcher(body, partial(model.known_grammar, grammar))
        if matcher is None:
            compiling, compile_ = request.app.state.compiling, partial(model.compile_grammar, grammar)
            matcher = await compiling.run(owner, partial(_matcher, body, compile_), size=_size(request))
    read = partial(_requests, model, body, tokenize, matcher)
    asked = await request.app.state.tokenizing.run(owner, read, size=_size(request))
    if (trace := request.state.record.trace) is not None:
        trace.generates(body.model, model, asked[0], len(asked) * body.copies, body.stream)
    asked = [replace(one, owner=owner, trace=trace) for one in asked]
    texts = [text for one in asked for text in several(one, body.copies)]
    prompts = [one.prompt_tokens for one in asked]
    longest = sum(min(text.max_tokens, max(0, model.context_length - len(text.prompt_tokens))) for text in texts)
    deltas = accounted(request, model, sum(map(len, prompts)), longest, generate_all(engine, texts), copies=body.copies)
    return Texts(model, prompts, body.copies, deltas)


async def respond(
    request: Request, texts: Texts, writer: Writer, stream: bool, form: type[EventStream] = EventStream
) -> Response:
    if stream:
        return await form.open(request, texts.deltas, writer.events)
    return JSONResponse(writer.whole(await complete(request, texts.deltas, len(texts.prompts) * texts.copies)))


def _requests(model: Model, body: SamplingBody, tokenize: Tokenize, matcher: Matcher | None) -> list[GenerationRequest]:
    """One a prompt."""
    return [body.generation(tokens, matcher) for tokens in tokenize(model)]


def _matcher(body: SamplingBody, made: Callable[[], Matcher | None]) -> Matcher | None:
    """Raises InvalidRequest in the name of the field that this route calls it by."""
    try:
        return made()
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(PARAM, body.format_field, 1), param=body.format_field) from error


def _size(request: Request) -> int:
    """Of the body, in bytes; the largest that it can be where its head does not say."""
    return int(request.headers.get("content-length", MAXIMUM_BODY))
