"""``POST /v1/completions``: prompts go on, as OpenAI's clients ask for it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.prompts import prompt_text, prompt_tokens
from gateway.routes.generating import begin, respond
from gateway.schemas import CompletionBody
from gateway.writers.completions import CompletionWriter

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/completions")
async def completions(request: Request, body: Annotated[CompletionBody, Depends(json_body(CompletionBody))]) -> Response:
    texts = await begin(request, body, lambda model: [prompt_tokens(model, prompt) for prompt in body.prompt])
    writer = CompletionWriter(body, texts.model, texts.prompts, [prompt_text(texts.model, prompt) for prompt in body.prompt])
    return await respond(request, texts, writer, body.stream)
