"""``POST /v1/responses``: text in, text out. Responses are not stored, so they cannot be retrieved or continued by id."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.api.prompts import conversation_tokens
from gateway.api.routes.generating import prepare, respond
from gateway.api.schemas import ResponsesBody
from gateway.api.serializers.responses import ResponseSerializer
from gateway.http.auth import require_api_key
from gateway.http.body import json_body
from gateway.text.model import Model

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/responses")
async def responses(request: Request, body: Annotated[ResponsesBody, Depends(json_body(ResponsesBody))]) -> Response:
    def tokenize(model: Model) -> list[list[int]]:
        return [conversation_tokens(model, body.conversation, tools=body.tool_use, param="input")]

    prepared = await prepare(request, body, tokenize)
    serializer = ResponseSerializer(body, prepared.engine.model, prepared.record)
    return await respond(request, prepared, serializer, body.stream)
