"""Lists the models: ``GET /v1``, ``/v1/models``, ``/v1/models/{id}``."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request

from gateway.engine.engine import Engine
from gateway.engine.registry import Registry
from gateway.errors import ModelNotAllowed, echo
from gateway.http.auth import require_api_key
from gateway.keys import ApiKey
from gateway.text.model import Model

router = APIRouter(dependencies=[Depends(require_api_key)])
READ = ["GET", "HEAD"]


@router.api_route("/v1", methods=READ)
async def about(request: Request) -> dict[str, Any]:
    generating = ["chat/completions", "completions", "responses", "messages", "messages/count_tokens"]
    endpoints = [*(f"POST /v1/{path}" for path in generating), "GET /v1/models", "GET /v1/models/{id}"]
    return {"object": "api", "name": "Tidegate", "default_model": _registry(request).default_name, "endpoints": endpoints}


@router.api_route("/v1/models", methods=READ)
async def list_models(request: Request) -> dict[str, Any]:
    models = [engine.model for engine in _registry(request).engines()]
    data = [_model_object(model) for model in models if _caller(request).may_use(model.name)]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": False, "first_id": first, "last_id": last}


@router.api_route("/v1/models/{name:path}", methods=READ)
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    if not name.strip("/") or name.endswith("/"):
        raise HTTPException(404)  # the path of the list or of a model with a trailing slash
    return _model_object(engine_for(request, name).model)


def engine_for(request: Request, name: str | None) -> Engine:
    """Returns the engine for this request. ``name`` None means the default model.

    Raises ModelNotFound, which lists the models, or ModelNotAllowed if the caller's key may not use the model.
    """
    caller = _caller(request)
    engine = _registry(request).engine(name, visible=caller.may_use)
    if not caller.may_use(engine.model.name):
        raise ModelNotAllowed(f"This key may not use the model {echo(engine.model.name)}.", param="model")
    request.state.record.model = engine.model.name
    return engine


def _caller(request: Request) -> ApiKey:
    caller: ApiKey = request.state.caller
    return caller


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


def _model_object(model: Model) -> dict[str, Any]:
    """See `server_models.Model`."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tidegate",
        "root": model.checkpoint,
        "parent": None,
        "max_model_len": model.context_length,
        "meta": {"n_vocab": model.vocabulary_size, "n_ctx_train": model.context_length},
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "checkpoint": model.checkpoint,
        "context_length": model.context_length,
        "chat_template": model.tokenizer.has_chat_template,
    }
