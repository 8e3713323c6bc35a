"""``POST /v1/chat/completions``, compatible with OpenAI's clients."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.api.prompts import conversation_tokens
from gateway.api.routes.generating import prepare, respond
from gateway.api.schemas import ChatBody
from gateway.api.serializers.chat import ChatSerializer
from gateway.http.auth import require_api_key
from gateway.http.body import json_body
from gateway.text.model import Model

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> Response:
    def tokenize(model: Model) -> list[list[int]]:
        variables = body.chat_template_kwargs
        return [conversation_tokens(model, body.conversation, tools=body.tool_use, variables=variables)]

    prepared = await prepare(request, body, tokenize)
    serializer = ChatSerializer(body, prepared.engine.model, prepared.record, prepared.prompts[0])
    return await respond(request, prepared, serializer, body.stream)
