"""What is known of one request while it runs: for its line in the log, and for the metrics."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.engine.generation import Delta

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
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: float | None = None  # when it came
    finish_reasons: list[str] = field(default_factory=list)
    error: Exception | None = None
    trace: "RequestTrace | None" = None  # where it is traced

    def begin_generation(self, model: str, prompt_tokens: int) -> None:
        self.model, self.prompt_tokens, self.cached_tokens, self.completion_tokens = model, prompt_tokens, 0, 0

    def note(self, delta: Delta, *, counts_cached: bool) -> None:
        """After ``begin_generation``. ``counts_cached``: not for further answers to one prompt, which find it in the cache that
        the first has just filled."""
        assert self.prompt_tokens is not None and self.cached_tokens is not None and self.completion_tokens is not None
        if counts_cached:
            self.cached_tokens += delta.cached_tokens
        self.completion_tokens += delta.tokens
        if self.first_token is None and delta.tokens:
            self.first_token = time.monotonic()
        if delta.finish_reason is not None:
            self.finish_reasons.append(delta.finish_reason)
