"""``POST /v1/responses``: text in, text out. Nothing is stored, so there is nothing to get or to continue by its id."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.prompts import conversation_tokens
from gateway.routes.generating import begin, respond
from gateway.schemas import ResponsesBody
from gateway.streaming import NamedEventStream
from gateway.writers.responses import ResponseWriter

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/responses")
async def responses(request: Request, body: Annotated[ResponsesBody, Depends(json_body(ResponsesBody))]) -> Response:
    texts = await begin(request, body, lambda model: [conversation_tokens(model, body.conversation(), param="input")])
    writer = ResponseWriter(body, texts.model, texts.prompts)
    return await respond(request, texts, writer, body.stream, NamedEventStream)
