"""``POST /v1/messages`` and ``/v1/messages/count_tokens``, compatible with Anthropic's clients."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from gateway.api.anthropic_models import InputTokens
from gateway.api.prompts import continued_tokens
from gateway.api.routes.generating import prepare, respond
from gateway.api.routes.models import engine_for
from gateway.api.routes.tokenize import run_tokenizing
from gateway.api.schemas import CountTokensBody, MessagesBody
from gateway.api.serializers.messages import MessageSerializer
from gateway.http.auth import require_api_key
from gateway.http.body import json_body

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/messages")
async def messages(request: Request, body: Annotated[MessagesBody, Depends(json_body(MessagesBody))]) -> Response:
    prepared = await prepare(request, body, lambda model: [continued_tokens(model, body.conversation, tools=body.tool_use)])
    serializer = MessageSerializer(body, prepared.engine.model, prepared.record)
    return await respond(request, prepared, serializer, body.stream)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: Annotated[CountTokensBody, Depends(json_body(CountTokensBody))]) -> Response:
    model = engine_for(request, body.model).model
    tokens = await run_tokenizing(request, partial(continued_tokens, model, body.conversation, tools=body.tool_use))
    answer: InputTokens = {"input_tokens": len(tokens)}
    return JSONResponse(answer)
