"""Health checks: is the gateway alive, can it serve, and how is it doing? They need no key and do not fail under load.

| path      | 200 while                                                | used by                              |
| --------- | -------------------------------------------------------- | ------------------------------------ |
| `/livez`  | the gateway's own loops run, whatever Triton does        | whatever restarts the gateway        |
| `/readyz` | every model answers a real step and it is not stopping   | load balancers, readiness probes     |
| `/health` | every model answers a real step; reports versions, load  | `make serve`, the page, people       |
"""

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.routes.models import READ
from gateway.engine.engine import Engine
from gateway.engine.registry import Registry
from gateway.errors import BackendUnavailable

router = APIRouter()


@router.api_route("/livez", methods=READ)
async def livez(request: Request) -> dict[str, Any]:
    """Any response shows that the event loop runs. Returns 503 if one of the gateway's loops has ended, which none should."""
    _require_loops(_registry(request))
    return {"status": "success", "data": {}}


@router.api_route("/readyz", methods=READ)
async def readyz(request: Request) -> dict[str, Any]:
    if getattr(request.app.state, "stopping", False):
        raise BackendUnavailable("The server is stopping.", retry_after=2)
    registry = _registry(request)
    if not registry.engines():
        raise BackendUnavailable("Triton serves no model.", retry_after=2)
    await _probe_all(registry)
    return {"status": "success", "data": {}}


@router.api_route("/health", methods=READ)
async def health(request: Request) -> dict[str, Any]:
    """Returns 503 if Triton's server or a model process is dead; Triton's own readiness does not notice the latter. A Triton
    server without models is healthy."""
    registry = _registry(request)
    await _probe_all(registry)
    models: dict[str, dict[str, Any]] = {engine.model.name: _load(engine) | {"older": {}} for engine in registry.engines()}
    for engine in registry.all_engines():
        of_model = models.get(engine.model.name)
        if of_model and of_model["version"] != engine.model.version:
            of_model["older"][engine.model.version] = {"running": engine.running, "waiting": engine.waiting}
    return {"status": "success", "data": {"models": models}}


def _load(engine: Engine) -> dict[str, Any]:
    model = engine.model
    what = {"version": model.version, "precision": model.parameters["precision"], "devices": engine.devices}
    return what | {"running": engine.running, "waiting": engine.waiting}


async def _probe_all(registry: Registry) -> None:
    """Raises BackendUnavailable unless the gateway's loops run and every model's newest version answers a real step. Models
    that are being removed do not count."""
    _require_loops(registry)
    for engine in registry.lasting_engines():
        await engine.probe()


def _require_loops(registry: Registry) -> None:
    if not registry.alive:
        raise BackendUnavailable("The loop that looks for models has ended.")
    for engine in registry.all_engines():
        if not engine.alive:
            raise BackendUnavailable(f"The loop of {engine.model.name} has ended.")


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry
