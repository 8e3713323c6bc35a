"""What is known of one request while it runs: for its line in the log, and for the metrics."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.engine.generation import GenerationRecord

if TYPE_CHECKING:
    from gateway.telemetry.tracing import RequestTrace

NO_ROUTE = "(none)"  # what the log and the metrics call a path that there is not
QUIET = {"/health", "/livez", "/readyz", "/metrics"}  # asked every few seconds for ever
FILES = {"/static/{path}", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}  # a dozen for each look at the page


@dataclass
class RequestRecord:
    """Filled by those who learn it. Times are of time.monotonic, in seconds."""

    request_id: str
    method: str
    began: float = field(default_factory=time.monotonic)
    route: str = NO_ROUTE  # the template: /v1/models/{name}
    key: str | None = None  # its name
    model: str | None = None
    status: int | None = None  # None: it ended without an answer
    generation: GenerationRecord | None = None
    error: Exception | None = None
    trace: "RequestTrace | None" = None  # where it is traced

    @property
    def first_token(self) -> float | None:
        """Seconds from its beginning to the first token of any answer."""
        first = None if self.generation is None else self.generation.first_token
        return None if first is None else first - self.began
