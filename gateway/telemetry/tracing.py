"""OpenTelemetry traces, from a request to the steps of its prompt: see docs/monitoring.md. Off unless an endpoint is set.

request ─┬─ queue, prefill, decode   for every answer; created at its end from times that are recorded anyway
         └─ step                     each that computes part of its prompt; Triton's own spans are its children

Tokens have no spans. A thread sends spans from a bounded queue, so a slow or dead collector loses spans but never costs time.
Prompts and answers are not traced. If no endpoint is set, OpenTelemetry's SDK is not even imported.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from gateway.engine.generation import AnswerRecord, GenerationRequest
from gateway.engine.step import StepRow
from gateway.errors import InternalError, TidegateError
from gateway.settings import Settings, SettingsError
from gateway.telemetry.request_record import QUIET, RequestRecord
from gateway.text.model import Model

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

FLUSH_TIMEOUT = 1.0  # seconds for sending the remaining spans during a stop
OPERATIONS = {"/v1/completions": "text_completion", "/generate": "text_completion"}  # all others: "chat"

Metadata = tuple[tuple[str, str], ...]  # of a gRPC call
NOT_TRACED: AbstractContextManager[Metadata | None] = nullcontext(None)


class Tracing:
    """Use `start`."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # else every attempt to reach a dead collector is logged
        resource = Resource.create({"service.name": "tidegate-gateway"} | dict(OTELResourceDetector().detect().attributes))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
        self._tracer = self._provider.get_tracer("tidegate")

    def begin(self, record: RequestRecord, headers: Mapping[str, str], path: str) -> "RequestTrace | None":
        """Starts a request's span, as a child of the client's if it sent a traceparent. Returns None for probes and requests
        that are not sampled."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if path in QUIET:
            return None
        context = TraceContextTextMapPropagator().extract(headers)
        span = self._tracer.start_span(record.method, context, SpanKind.SERVER)
        return RequestTrace(self._tracer, span, record) if span.is_recording() else None

    def close(self) -> None:
        """Sends the remaining spans within FLUSH_TIMEOUT. A thread stuck on a dead collector does not block the exit."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_TIMEOUT)


def start(settings: Settings) -> Tracing | None:
    """Returns None if no endpoint is set. Raises SettingsError if one is but OpenTelemetry is not installed."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        return Tracing(settings.otel_exporter_otlp_endpoint)
    except ImportError as error:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is not installed; "
            "traces need opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http."
        ) from error


@asynccontextmanager
async def sent_at_the_end(tracing: Tracing | None) -> AsyncIterator[None]:
    yield
    if tracing is not None:
        await asyncio.to_thread(tracing.close)


def step_spans(rows: Sequence[StepRow]) -> AbstractContextManager[Metadata | None]:
    """Wraps a step in a span for every traced request whose prompt it computes; yields the trace context for Triton."""
    traced = [row for row in rows if row.trace is not None and (row.past_length == 0 or not row.decodes)]
    return _step_spans([row.trace for row in traced if row.trace is not None], rows) if traced else NOT_TRACED


@contextmanager
def _step_spans(traces: "Sequence[RequestTrace]", rows: Sequence[StepRow]) -> Iterator[Metadata]:
    from opentelemetry.trace import Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    first, *others = traces
    spans = [first.start_step(rows)]
    spans += [trace.start_step(rows, same_as=spans[0]) for trace in others]
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(spans[0]))
    try:
        yield tuple(carrier.items())
    except Exception as error:
        for span in spans:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", _type_of(error))
        raise
    finally:
        for span in spans:
            span.end()


class RequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: "Tracer", span: "Span", record: RequestRecord) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span, self._record = tracer, span, record
        self._context = set_span_in_context(span)
        self._clock = time.time_ns() - time.monotonic_ns()

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def generates(self, asked_model: str | None, model: Model, request: GenerationRequest, choices: int, stream: bool) -> None:
        sampling = request.sampling
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": "tidegate",
            "gen_ai.request.model": asked_model or model.name,
            "gen_ai.response.model": model.name,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.choice.count": choices,
            "gen_ai.request.stream": stream,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k,
            "gen_ai.request.presence_penalty": sampling.presence_penalty,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        }
        if request.seed is not None:
            attributes["gen_ai.request.seed"] = request.seed
        self._span.set_attributes(attributes)

    def start_step(self, rows: Sequence[StepRow], same_as: "Span | None" = None) -> "Span":
        """``same_as``: another request's span for this step, which is the parent of Triton's; this one links to it."""
        from opentelemetry.trace import Link, SpanKind

        attributes: dict[str, Any] = {
            "rpc.system.name": "grpc",
            "rpc.method": "inference.GRPCInferenceService/ModelInfer",
            "tidegate.step.rows": len(rows),
            "tidegate.step.tokens": sum(min(len(row.tokens), row.token_limit) for row in rows),  # at most: some may be cached
        }
        links = [] if same_as is None else [Link(same_as.get_span_context())]
        return self._tracer.start_span("step", self._context, SpanKind.CLIENT, attributes, links)

    def end(self) -> None:
        """Ends the span; call it when the record is complete."""
        from opentelemetry.trace import Status, StatusCode

        record = self._record
        for index, answer in enumerate(record.generation.answers if record.generation is not None else ()):
            self._add_parts(index, answer)
        attributes = _attributes_of(record)
        operation, model = attributes.get("gen_ai.operation.name"), record.model
        self._span.update_name(f"{operation} {model}" if model else f"{record.method} {record.route}")
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if record.error is not None and getattr(record.error, "status", 500) >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _add_parts(self, index: int, answer: AnswerRecord) -> None:
        for lost in answer.recoveries:
            self._span.add_event("recovery", {"tidegate.choice.index": index}, self._nanoseconds(lost))
        if answer.started is None or answer.last_token is None:
            return
        first = answer.first_token or answer.last_token
        self._add_part("queue", index, answer.arrived, answer.started)
        self._add_part("prefill", index, answer.started, first)
        if answer.tokens:
            self._add_part("decode", index, first, answer.last_token, tokens=answer.tokens)

    def _add_part(self, name: str, index: int, began: float, ended: float, tokens: int | None = None) -> None:
        attributes = {"tidegate.choice.index": index} | ({} if tokens is None else {"gen_ai.usage.output_tokens": tokens})
        span = self._tracer.start_span(name, self._context, attributes=attributes, start_time=self._nanoseconds(began))
        span.end(self._nanoseconds(ended))

    def _nanoseconds(self, seconds: float) -> int:
        """Since 1970."""
        return self._clock + int(seconds * 1e9)


def _attributes_of(record: RequestRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "error.type": None if record.error is None else _type_of(record.error),
        "tidegate.request_id": record.request_id,
    }
    if record.model is not None:
        attributes["gen_ai.operation.name"] = OPERATIONS.get(record.route, "chat")
    if (generation := record.generation) is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": generation.prompt_tokens,
            "gen_ai.usage.output_tokens": generation.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": generation.cached_tokens,
            "gen_ai.response.finish_reasons": generation.finish_reasons or None,
            "gen_ai.response.time_to_first_chunk": record.first_token,
        }
    return attributes


def _type_of(error: Exception) -> str:
    return (error.code or error.kind) if isinstance(error, TidegateError) else InternalError.kind
