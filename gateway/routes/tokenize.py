"""``POST /tokenize`` and ``POST /detokenize``: text ↔ tokens, in the form of vLLM's clients."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from gateway.answers import Detokenized, Tokens
from gateway.auth import require_api_key
from gateway.body import json_body
from gateway.model import Model
from gateway.prompts import conversation_tokens, require_tokens
from gateway.routes.models import engine_for
from gateway.schemas import DetokenizeBody, TokenizeBody

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/tokenize", response_model=None)
async def tokenize(request: Request, body: Annotated[TokenizeBody, Depends(json_body(TokenizeBody))]) -> Tokens:
    model = engine_for(request, body.model).model
    tokens = await asyncio.to_thread(_tokens, model, body)
    return {
        "count": len(tokens),
        "max_model_len": model.context_length,
        "tokens": tokens,
        "token_strs": [model.tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None,
    }


@router.post("/detokenize", response_model=None)
async def detokenize(request: Request, body: Annotated[DetokenizeBody, Depends(json_body(DetokenizeBody))]) -> Detokenized:
    """Special tokens are shown by their names: text and tokens turn into each other and back."""
    model = engine_for(request, body.model).model
    require_tokens(model, body.tokens, "tokens")
    return {"prompt": await asyncio.to_thread(model.tokenizer.decode, body.tokens, skip_special_tokens=False)}


def _tokens(model: Model, body: TokenizeBody) -> list[int]:
    if body.messages is not None:
        return conversation_tokens(model, body.messages, add_generation_prompt=body.add_generation_prompt is not False)
    return model.tokenizer.encode(body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
