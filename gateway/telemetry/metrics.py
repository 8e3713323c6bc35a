"""The Prometheus metrics at /metrics. Names follow vLLM's, so its dashboards need little more than a different prefix.

The set of label values is bounded whatever clients send: served models, route templates, HTTP methods, our own errors.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.engine.engine import Engine
from gateway.engine.generation import AnswerRecord, GenerationRecord
from gateway.errors import InternalError, RateLimited, TidegateError
from gateway.settings import Settings
from gateway.telemetry.request_record import QUIET, RequestRecord
from gateway.telemetry.step_metrics import StepMetrics
from gateway.telemetry.token_pace import TokenPace

# Seconds. A small model's token takes a few milliseconds; a whole answer behind a long queue takes a minute.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
# Routes that generate, and their usual statuses: exported as 0 from the start, so that the first one shows as an increase.
GENERATING = ("/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses")
ENDS = ("200", "429", "500", "503")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """The metrics of one application; several applications in one process do not mix."""

    def __init__(self, engines: Callable[[], Iterable[Engine]], max_waiting: int = Settings.max_waiting) -> None:
        """``engines`` is called at every scrape and returns all running engines, including older versions."""
        self._registry = CollectorRegistry()
        self._registry.register(_Load(engines))
        self._make_times()
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.cached_prompt_tokens = self._counter("cached_prompt_tokens", "Those of them that were in the cache.", "model")
        self.pace = TokenPace(BUCKETS)
        self._registry.register(self.pace)
        self.prompt_sizes = self._histogram("request_prompt_tokens", "Tokens of a request's prompts.", TOKENS)
        self.answer_sizes = self._histogram("request_generation_tokens", "Tokens of an answer.", TOKENS)
        self.recoveries = self._counter(
            "recoveries", "Times that a text had lost its Triton, or its cache there, and went on.", "model"
        )
        self.drafted_tokens = self._counter("spec_decode_num_draft_tokens", "Tokens that were drafted.", "model")
        self.accepted_tokens = self._counter("spec_decode_num_accepted_tokens", "Those of them that were right.", "model")
        self.successes = self._counter("request_success", "Answers that ended, by why they ended.", "model", "finished_reason")
        self._requests = self._counter("http_requests", "Requests, by what was answered.", "route", "method", "status")
        self._rejected = self._counter("requests_rejected", "Requests that a client or its load made us refuse.", "reason")
        self._failed = self._counter("requests_failed", "Requests that we failed, also in the middle of a stream.", "reason")
        self._rate_limited = self._counter("rate_limited", "Requests refused by a limit of their key.", "limit")
        for route, status in product(GENERATING, ENDS):
            self._requests.labels(route, "POST", status)
        for error in _subclasses(TidegateError):  # also exported from the start
            self._errors(error.status).labels(error.code or error.kind)
        bound = Gauge("tidegate_max_requests_waiting", "Texts that may wait; more are refused.", registry=self._registry)
        bound.set(max_waiting)
        self.steps = StepMetrics(self._registry)
        ProcessCollector(namespace="tidegate", registry=self._registry)  # memory, CPU, open files, start time

    def _make_times(self) -> None:
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token."
        )
        self.latency = self._histogram("e2e_request_latency_seconds", "From a request's arrival to the end of its answer.")
        self.queue_time = self._histogram("request_queue_time_seconds", "A text's wait for a slot.")
        self.prefill_time = self._histogram("request_prefill_time_seconds", "From a text's slot to its first token.")
        self.decode_time = self._histogram("request_decode_time_seconds", "From a text's first token to its last.")

    def count_request(self, record: RequestRecord) -> None:
        method = record.method if record.method in METHODS else "other"
        self._requests.labels(record.route, method, str(record.status or "none")).inc()
        if record.error is None or record.route in QUIET:  # a probe answered with "not ready" is not a failed request
            return
        error = record.error if isinstance(record.error, TidegateError) else InternalError()
        self._errors(error.status).labels(error.code or error.kind).inc()
        if isinstance(error, RateLimited):
            self._rate_limited.labels(error.limit).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type: Prometheus' text format, or OpenMetrics if accepted."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _errors(self, status: int) -> Counter:
        return self._failed if status >= 500 else self._rejected

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...] = BUCKETS) -> Histogram:
        return Histogram(f"tidegate_{name}", help, ["model"], buckets=buckets, registry=self._registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"tidegate_{name}", help, labels, registry=self._registry)  # the library adds _total


class GenerationMetrics:
    """Metrics of one request's answers. Some are updated as tokens arrive, the rest at the end."""

    def __init__(self, metrics: Metrics, model: str, record: RequestRecord) -> None:
        """``model``: the name of a served model."""
        self._metrics, self._model, self._record = metrics, model, record
        self._pace = metrics.pace.of(model)
        self._silent = True  # before any token of any answer

    def note_tokens(self, answer: AnswerRecord, tokens: int, now: float) -> None:
        """See `gateway.engine.generation`."""
        if answer.last_token is not None:
            self._pace.note(tokens, (now - answer.last_token) / tokens)
            return
        self._pace.note_first(tokens)
        if self._silent:
            self._metrics.time_to_first_token.labels(self._model).observe(now - self._record.began)
            self._silent = False
        if answer.started is not None:
            self._metrics.queue_time.labels(self._model).observe(answer.started - answer.arrived)
            self._metrics.prefill_time.labels(self._model).observe(now - answer.started)

    def note_end(self, record: GenerationRecord) -> None:
        metrics, model = self._metrics, self._model
        if any(answer.finish_reason or answer.tokens for answer in record.answers):  # otherwise nothing was computed
            metrics.prompt_tokens.labels(model).inc(record.prompt_tokens)
            metrics.prompt_sizes.labels(model).observe(record.prompt_tokens)
            metrics.cached_prompt_tokens.labels(model).inc(record.cached_tokens)
        for answer in record.answers:
            if answer.recoveries:
                metrics.recoveries.labels(model).inc(len(answer.recoveries))
            if answer.drafted:
                metrics.drafted_tokens.labels(model).inc(answer.drafted)
                metrics.accepted_tokens.labels(model).inc(answer.accepted)
            if answer.finish_reason is not None:
                metrics.successes.labels(model, answer.finish_reason).inc()
                metrics.answer_sizes.labels(model).observe(answer.tokens)
                metrics.decode_time.labels(model).observe((answer.last_token or 0) - (answer.first_token or 0))
        if 0 < len(record.finish_reasons) == len(record.answers):  # all answers finished
            metrics.latency.labels(model).observe(time.monotonic() - self._record.began)


class _Load(Collector):
    """The engines' own figures, read at each scrape. Versions of one model are reported together."""

    def __init__(self, engines: Callable[[], Iterable[Engine]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("tidegate_num_requests_running", "Texts that Triton works on.", labels=["model"])
        waiting = GaugeMetricFamily("tidegate_num_requests_waiting", "Texts that wait for a free slot.", labels=["model"])
        slots = GaugeMetricFamily("tidegate_num_slots", "Texts that can run at once: on Tritons that answer.", labels=["model"])
        tritons = GaugeMetricFamily("tidegate_num_tritons", "Tritons that have the model.", labels=["model", "state"])
        of_model: defaultdict[str, list[Engine]] = defaultdict(list)
        for engine in self._engines():
            of_model[engine.model.name].append(engine)
        for model, engines in of_model.items():
            replicas = {replica.address: replica for engine in engines for replica in engine.replicas}.values()
            answering = [replica for replica in replicas if replica.failing_since is None]
            running.add_metric([model], sum(engine.running for engine in engines))
            waiting.add_metric([model], sum(engine.waiting for engine in engines))
            slots.add_metric([model], sum(replica.model.slots for replica in answering))
            tritons.add_metric([model, "answering"], len(answering))
            tritons.add_metric([model, "failing"], len(replicas) - len(answering))
        yield from (running, waiting, slots, tritons)


def _subclasses(error: type[TidegateError]) -> Iterator[type[TidegateError]]:
    yield error
    for one in error.__subclasses__():
        yield from _subclasses(one)
