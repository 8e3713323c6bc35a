"""``POST /generate``: continues a prompt."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from gateway.api.prompts import prompt_tokens
from gateway.api.routes.generating import prepare, respond
from gateway.api.schemas import GenerateBody
from gateway.api.serializers.generate import GenerateSerializer
from gateway.http.auth import require_api_key
from gateway.http.body import json_body

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/generate")
async def generate(request: Request, body: Annotated[GenerateBody, Depends(json_body(GenerateBody))]) -> Response:
    prepared = await prepare(request, body, lambda model: [prompt_tokens(model, body.prompt)])
    return await respond(request, prepared, GenerateSerializer(body, prepared.record), body.stream)
