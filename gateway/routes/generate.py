"""``POST /generate``: a text goes on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.generation import Delta
from gateway.routes.models import default_engine
from gateway.schemas import GenerateBody
from gateway.streaming import EventStream, complete

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/generate")
async def generate(request: Request, body: Annotated[GenerateBody, Depends(json_body(GenerateBody))]) -> Response:
    engine = default_engine(request)
    prompt_tokens = await asyncio.to_thread(engine.model.tokenizer.encode, body.prompt)  # a megabyte takes a second
    deltas = engine.generate(body.generation(prompt_tokens))
    if body.stream:
        return await EventStream.open(request, deltas, lambda pieces: _events(pieces, len(prompt_tokens)))
    answer = await complete(request, deltas)
    return JSONResponse(_success(prompt=body.prompt, generated_text=body.prompt + answer.text))


async def _events(deltas: AsyncIterator[Delta], prompt_tokens: int) -> AsyncGenerator[dict[str, Any], None]:
    """The text after the prompt, piece by piece; the last event has none, but why it ended and what it took."""
    tokens, finish_reason = 0, None
    async for delta in deltas:
        tokens += delta.tokens
        finish_reason = delta.finish_reason
        if delta.text:
            yield _success(text=delta.text)
    yield _success(text="", finish_reason=finish_reason, usage={"prompt_tokens": prompt_tokens, "completion_tokens": tokens})


def _success(**data: object) -> dict[str, Any]:
    return {"status": "success", "data": data}
