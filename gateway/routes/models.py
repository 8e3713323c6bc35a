"""Which models there are: ``GET /v1``, ``/v1/models``, ``/v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter, Depends, Request

from gateway.auth import require_api_key
from gateway.body import echo
from gateway.engine import Engine
from gateway.errors import ModelNotFound
from gateway.model import Model

DEFAULT_MODEL_ALIAS = "latest_checkpoint.pt"  # always the default model, on every deployment

router = APIRouter(dependencies=[Depends(require_api_key)])
READ = ["GET", "HEAD"]


@router.api_route("/v1", methods=READ)
async def about(request: Request) -> dict[str, Any]:
    endpoints = ["POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{id}"]
    return {"object": "api", "name": "Tidegate", "default_model": request.app.state.default_model, "endpoints": endpoints}


@router.api_route("/v1/models", methods=READ)
async def list_models(request: Request) -> dict[str, Any]:
    return {"object": "list", "data": [_model_object(engine.model) for engine in _engines(request).values()]}


@router.api_route("/v1/models/{name:path}", methods=READ)
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    return _model_object(engine_named(request, name).model)


def engine_named(request: Request, name: str) -> Engine:
    """Raises ModelNotFound, which says what there is."""
    if name == DEFAULT_MODEL_ALIAS:
        return default_engine(request)
    engines = _engines(request)
    if name not in engines:
        raise ModelNotFound(f"There is no model {echo(name)}; the models here: {', '.join(engines)}.", param="model")
    return engines[name]


def default_engine(request: Request) -> Engine:
    return _engines(request)[request.app.state.default_model]


def _engines(request: Request) -> dict[str, Engine]:
    engines: dict[str, Engine] = request.app.state.engines
    return engines


def _model_object(model: Model) -> dict[str, Any]:
    """OpenAI's four fields and three of ours: the file it was made from, the longest text, whether it was made for chat."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tidegate",
        "checkpoint": model.checkpoint,
        "context_length": model.context_length,
        "chat_template": model.tokenizer.has_chat_template,
    }
