"""``POST /tokenize`` and ``POST /detokenize``: text ↔ tokens, compatible with vLLM's clients."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from gateway.api.prompts import conversation_tokens, text_tokens, tokens_text
from gateway.api.response_models import Detokenized, Tokens
from gateway.api.routes.models import engine_for
from gateway.api.schemas import DetokenizeBody, TokenizeBody
from gateway.api.schemas.history import chat_conversation
from gateway.http.auth import require_api_key
from gateway.http.body import json_body
from gateway.text.fair_executor import FairExecutorBySize
from gateway.text.model import Model

Result = TypeVar("Result")

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/tokenize")
async def tokenize(request: Request, body: Annotated[TokenizeBody, Depends(json_body(TokenizeBody))]) -> Response:
    model = engine_for(request, body.model).model
    return Response(await run_tokenizing(request, partial(_tokenized, model, body)), media_type="application/json")


@router.post("/detokenize")
async def detokenize(request: Request, body: Annotated[DetokenizeBody, Depends(json_body(DetokenizeBody))]) -> Response:
    """Shows special tokens by name, so that the text can be tokenized back."""
    model = engine_for(request, body.model).model
    return Response(await run_tokenizing(request, partial(_detokenized, model, body)), media_type="application/json")


async def run_tokenizing(request: Request, work: Callable[[], Result]) -> Result:
    """Runs ``work`` in a thread, scheduled fairly among keys."""
    threads: FairExecutorBySize = request.app.state.tokenizing
    return await threads.run(request.state.caller.name, work, request.state.body_size)


def _tokenized(model: Model, body: TokenizeBody) -> bytes:
    tokens = _tokens(model, body)
    texts = {token: model.tokenizer.token_text(token) for token in set(tokens)} if body.return_token_strs else {}
    answer: Tokens = {
        "count": len(tokens),
        "max_model_len": model.context_length,
        "tokens": tokens,
        "token_strs": [texts[token] for token in tokens] if body.return_token_strs else None,
    }
    return to_json(answer)


def _detokenized(model: Model, body: DetokenizeBody) -> bytes:
    answer: Detokenized = {"prompt": tokens_text(model, body.tokens, param="tokens")}
    return to_json(answer)


def _tokens(model: Model, body: TokenizeBody) -> list[int]:
    if body.messages is not None:
        messages, begins_answer = chat_conversation(body.messages), body.add_generation_prompt is not False
        return conversation_tokens(model, messages, add_generation_prompt=begins_answer)
    return text_tokens(model, body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
