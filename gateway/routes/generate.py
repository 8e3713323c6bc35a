"""``POST /generate``: a text goes on."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.prompts import prompt_tokens
from gateway.routes.generating import begin, respond
from gateway.schemas import GenerateBody
from gateway.writers.generate import GenerateWriter

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/generate")
async def generate(request: Request, body: Annotated[GenerateBody, Depends(json_body(GenerateBody))]) -> Response:
    texts = await begin(request, body, lambda model: [prompt_tokens(model, body.prompt)])
    return await respond(request, texts, GenerateWriter(body, texts.prompts), body.stream)
