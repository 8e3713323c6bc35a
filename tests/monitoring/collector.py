"""A real receiver of OTLP over HTTP: it takes what exporters send and keeps the spans."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.gateway.http_client import until


class Span(NamedTuple):
    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str  # empty: none
    begin: int  # nanoseconds since 1970
    end: int
    attributes: dict[str, Any]
    events: list[str]
    links: list[str]  # span ids
    failed: bool


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def trace(self, trace_id: str) -> list[Span]:
        """A trace by the beginnings of its spans, once the request's has come, which the gateway sends last."""
        for _ in until(15):
            found = [span for span in self.spans if span.trace_id == trace_id]
            if any("tidegate.request_id" in span.attributes for span in found):
                return sorted(found, key=lambda span: span.begin)
        raise AssertionError(f"of trace {trace_id} there are only {found}")

    def of_triton(self, trace_id: str, seconds: float) -> dict[str, Span]:
        """Triton's three spans of a trace by their names, or those that came within so many seconds: it loses some."""
        for _ in until(seconds):
            found = [span for span in self.spans if span.trace_id == trace_id and span.service == "triton-inference-server"]
            if len(found) >= 3:
                break
        return {span.name: span for span in found}


@contextmanager
def collector() -> Iterator[Collector]:
    collecting = Collector()
    collecting._thread.start()
    try:
        yield collecting
    finally:
        collecting._server.shutdown()
        collecting._server.server_close()


def _handler_of(collecting: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            as_json = self.headers["Content-Type"].startswith("application/json")  # as Triton sends it
            collecting.spans += _spans_of(_from_json(body) if as_json else ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Span(
                span.name,
                service,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                _attributes(span.attributes),
                [event.name for event in span.events],
                [link.span_id.hex() for link in span.links],
                span.status.code == 2,
            )


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON writes ids as hexadecimal digits, protobuf's own as base64."""

    def as_base64(fields: dict[str, Any]) -> dict[str, Any]:
        ids = {"traceId", "spanId", "parentSpanId"} & fields.keys()
        return fields | {name: base64.b64encode(bytes.fromhex(fields[name])).decode() for name in ids}

    document = json.loads(body, object_hook=as_base64)
    return json_format.ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def _attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
