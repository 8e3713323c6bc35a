"""``POST /v1/chat/completions``, as OpenAI's clients speak it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.prompts import conversation_tokens
from gateway.routes.generating import begin, respond
from gateway.schemas import ChatBody
from gateway.writers.chat import ChatWriter

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> Response:
    texts = await begin(request, body, lambda model: [conversation_tokens(model, body.messages)])
    return await respond(request, texts, ChatWriter(body, texts.model, texts.prompts), body.stream)
