"""``GET /metrics``, for Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.api.routes.models import READ
from gateway.telemetry.metrics import Metrics

router = APIRouter()


@router.api_route("/metrics", methods=READ)
async def metrics(request: Request) -> Response:
    """Needs no key: the metrics reveal load, but nothing about clients or their requests."""
    metrics: Metrics = request.app.state.metrics
    body, content_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
