"""``POST /v1/completions``: continues prompts; compatible with OpenAI's clients."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.api.prompts import prompt_text, prompt_tokens
from gateway.api.routes.generating import prepare, respond
from gateway.api.schemas import CompletionBody
from gateway.api.serializers.completions import CompletionSerializer
from gateway.http.auth import require_api_key
from gateway.http.body import json_body
from gateway.text.model import Model

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/completions")
async def completions(request: Request, body: Annotated[CompletionBody, Depends(json_body(CompletionBody))]) -> Response:
    shown = [""] * len(body.prompt)

    def tokenize(model: Model) -> list[list[int]]:
        prompts = [prompt_tokens(model, prompt) for prompt in body.prompt]
        asked = body.echo or body.logprobs is not None  # logprobs' offsets count from the prompt's start
        if asked and max(map(len, prompts)) <= model.context_length:
            shown[:] = [prompt_text(model, prompt) for prompt in body.prompt]
        return prompts

    prepared = await prepare(request, body, tokenize)
    serializer = CompletionSerializer(body, prepared.engine.model, prepared.record, shown, prepared.prompts)
    return await respond(request, prepared, serializer, body.stream)
