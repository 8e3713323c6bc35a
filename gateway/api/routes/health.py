"""Three different things: does the gateway live, can it serve, and how is it? None needs a key; none minds load.

| path      | 200 while                                                          | who asks                             |
| --------- | ------------------------------------------------------------------ | ------------------------------------ |
| `/livez`  | the gateway's own loops run, whatever Triton does                  | what restarts the gateway            |
| `/readyz` | every model answers a real step, and it has not been asked to stop | load balancers, readiness probes     |
| `/health` | every model answers a real step; tells versions and load           | `make serve`, the page, people       |
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
    """That it answers at all shows that the event loop runs. 503 where a loop of ours has ended: none ever should."""
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
    """503 where Triton's server or its model process is dead: Triton's own readiness does not see the latter. A Triton that
    has no model is well."""
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
    """Raises BackendUnavailable unless our loops run and every newest model answers a real step. One that is being removed is
    no failure."""
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
