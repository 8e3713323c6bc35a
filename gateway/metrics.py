"""What Prometheus reads at /metrics. Names follow vLLM's stems, so that its dashboards need another prefix and little else.

Label values are few whatever clients send: models that are served, routes' templates, HTTP's methods.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.engine import Engine
from gateway.errors import RateLimited
from gateway.generation import Delta
from gateway.record import RequestRecord

# Seconds. A small model's token takes some milliseconds, a whole answer in a long queue a minute.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """Of one application: several in a process do not mix."""

    def __init__(self, engines: Callable[[], Iterable[Engine]]) -> None:
        """``engines`` is asked at every scrape: all that run, older versions too."""
        self._registry = CollectorRegistry()
        self._registry.register(_Load(engines))
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token."
        )
        self.time_per_output_token = self._histogram("time_per_output_token_seconds", "Between two tokens of an answer.")
        self.latency = self._histogram("e2e_request_latency_seconds", "From a request's arrival to the end of its answer.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.cached_prompt_tokens = self._counter("cached_prompt_tokens", "Those of them that were in the cache.", "model")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.", "model")
        self.successes = self._counter("request_success", "Answers that ended, by why they ended.", "model", "finished_reason")
        self._requests = self._counter("http_requests", "Requests, by what was answered.", "route", "method", "status")
        self._rate_limited = self._counter("rate_limited", "Requests refused by a limit of their key.", "limit")

    def count_request(self, record: RequestRecord) -> None:
        method = record.method if record.method in METHODS else "other"
        self._requests.labels(record.route, method, str(record.status or "none")).inc()
        if isinstance(record.error, RateLimited):
            self._rate_limited.labels(record.error.limit).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type: Prometheus' text format, or OpenMetrics where it is accepted."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(f"tidegate_{name}", help, ["model"], buckets=BUCKETS, registry=self._registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"tidegate_{name}", help, labels, registry=self._registry)  # the library adds _total


class GenerationMetrics:
    """Measures the answers of one request as their pieces come. ``model`` is the name of a model that is served."""

    def __init__(self, metrics: Metrics, model: str, record: RequestRecord) -> None:
        self._metrics, self._model, self._record = metrics, model, record
        self._per_token = metrics.time_per_output_token.labels(model)
        self._tokens = metrics.generation_tokens.labels(model)
        self._last: dict[int, float] = {}  # answer's index → when its last piece came

    def note(self, delta: Delta) -> None:
        if not delta.tokens:
            return
        now = time.monotonic()
        if not self._last:
            self._metrics.time_to_first_token.labels(self._model).observe(now - self._record.began)
        if (last := self._last.get(delta.index)) is not None:
            # A piece may hold several tokens: a character of three, or all that a slow reader has left lying.
            for _ in range(delta.tokens):
                self._per_token.observe((now - last) / delta.tokens)
        self._last[delta.index] = now
        self._tokens.inc(delta.tokens)

    def end(self, finished: bool) -> None:
        """``finished``: all answers have come to their end, so that the time they took tells something."""
        self._metrics.prompt_tokens.labels(self._model).inc(self._record.prompt_tokens or 0)
        self._metrics.cached_prompt_tokens.labels(self._model).inc(self._record.cached_tokens or 0)
        for reason in self._record.finish_reasons:
            self._metrics.successes.labels(self._model, reason).inc()
        if finished:
            self._metrics.latency.labels(self._model).observe(time.monotonic() - self._record.began)


class _Load(Collector):
    """The engines' own figures, read when they are asked for."""

    def __init__(self, engines: Callable[[], Iterable[Engine]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("tidegate_num_requests_running", "Texts that Triton works on.", labels=["model"])
        waiting = GaugeMetricFamily("tidegate_num_requests_waiting", "Texts that wait for a free slot.", labels=["model"])
        load: dict[str, tuple[int, int]] = {}
        for engine in self._engines():  # versions of one model together
            before = load.get(engine.model.name, (0, 0))
            load[engine.model.name] = before[0] + engine.running, before[1] + engine.waiting
        for name, (now_running, now_waiting) in load.items():
            running.add_metric([name], now_running)
            waiting.add_metric([name], now_waiting)
        yield from (running, waiting)
