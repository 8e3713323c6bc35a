"""The record of one request, used for its log line, its trace and the metrics."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.engine.generation import GenerationRecord

if TYPE_CHECKING:
    from gateway.telemetry.tracing import RequestTrace

NO_ROUTE = "(none)"  # the route of an unknown path in log and metrics
QUIET = {"/health", "/livez", "/readyz", "/metrics"}  # polled every few seconds
FILES = {"/static/{path}", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}  # a dozen per page view


@dataclass
class RequestRecord:
    """Filled in as the request proceeds. Times are time.monotonic(), in seconds."""

    request_id: str
    method: str
    began: float = field(default_factory=time.monotonic)
    route: str = NO_ROUTE  # the template: /v1/models/{name}
    key: str | None = None  # the API key's name
    model: str | None = None
    status: int | None = None  # None: ended without a response
    generation: GenerationRecord | None = None
    error: Exception | None = None
    trace: "RequestTrace | None" = None  # if it is traced

    @property
    def first_token(self) -> float | None:
        """Seconds from the start of the request to the first token of any answer."""
        first = None if self.generation is None else self.generation.first_token
        return None if first is None else first - self.began
