"""``GET /health``: does Triton answer a real step, for every model?"""

from typing import Any

from fastapi import APIRouter, Request

from gateway.routes.models import READ

router = APIRouter()


@router.api_route("/health", methods=READ)
async def health(request: Request) -> dict[str, Any]:
    """Needs no key. 503 where Triton's server or its model process is dead: Triton's own readiness does not see the latter."""
    engines = request.app.state.engines
    for engine in engines.values():
        await engine.probe()
    models = {name: {"running": engine.running, "waiting": engine.waiting} for name, engine in engines.items()}
    return {"status": "success", "data": {"models": models}}
