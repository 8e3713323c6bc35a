"""Traces: from a request to the steps of its prompt and to Triton, to a real receiver; and what a dead one does: nothing."""

import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from serve.triton_server import free_port
from testing.gateway import Gateway
from testing.triton import Triton
from tests.conftest import ROOT, TINY, gateway_process
from tests.gateway.http_client import CHAT, client, events, until
from tests.monitoring.collector import Collector, Span, collector

SECRET = "a_prompt_that_nobody_else_may_read"
BODY = CHAT | {"model": TINY, "max_tokens": 5, "ignore_eos": True, "temperature": 0}
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # milliseconds until spans are sent
PARTS = ["queue", "prefill", "decode"]


class Traced(NamedTuple):
    url: str
    log: Path
    collector: Collector


@pytest.fixture(scope="module")
def traced(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A gateway and a Triton that both send their spans to one collector; Triton only those of traced requests."""
    directory = tmp_path_factory.mktemp("traced")
    with collector() as collecting:
        config = ["mode=opentelemetry", "rate=0", "level=TIMESTAMPS", "count=-1", "opentelemetry,bsp_schedule_delay=100"]
        options = [f"--trace-config={one}" for one in [*config, f"opentelemetry,url={collecting.endpoint}/v1/traces"]]
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collecting.endpoint}
        with (
            Triton(model_repository, directory, [TINY], *options, slots=4, metrics=True) as triton,
            gateway_process(triton.grpc_address, directory / "log", **FAST, **endpoint) as url,
        ):
            yield Traced(url, directory / "log", collecting)


class Parent:
    """A client's own trace."""

    def __init__(self, sampled: bool = True) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-0{int(sampled)}"}


def of_gateway(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.service == "tidegate-gateway"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_a_span_with_its_queue_prefill_decode_and_steps(traced: Traced, api_key: str, stream: bool) -> None:
    parent = Parent()
    long = {"messages": [{"role": "user", "content": f"{SECRET} {secrets.token_hex(4)} " * 25}]}  # more than a chunk
    with client(traced.url, api_key) as http:
        response = http.post("/v1/chat/completions", json=BODY | long | {"stream": stream}, headers=parent.headers)
    assert response.status_code == 200
    spans = of_gateway(traced.collector.trace(parent.trace_id))
    request, *children = spans
    assert (request.name, request.parent_id, request.failed) == (f"chat {TINY}", parent.span_id, False)
    assert {span.parent_id for span in children} == {request.span_id}
    assert [span.name for span in children if span.name != "step"] == PARTS
    assert len([span for span in children if span.name == "step"]) >= 2
    assert all(request.begin <= span.begin <= span.end <= request.end for span in children)
    queue, prefill, decode = (next(span for span in children if span.name == name) for name in PARTS)
    assert queue.end == prefill.begin and prefill.end == decode.begin
    steps = [span for span in children if span.name == "step"]
    assert prefill.begin <= steps[0].begin and steps[-1].end <= decode.begin
    assert steps[0].attributes["tidegate.step.tokens"] == 256


def test_a_request_has_the_attributes_of_the_genai_conventions(traced: Traced, api_key: str) -> None:
    parent = Parent()
    body = BODY | {"n": 2, "seed": 7, "top_p": 0.5, "model": "latest_checkpoint.pt"}
    with client(traced.url, api_key) as http:
        response = http.post("/v1/chat/completions", json=body, headers=parent.headers | {"X-Request-Id": "mine"})
    usage = response.json()["usage"]
    spans = of_gateway(traced.collector.trace(parent.trace_id))
    attributes = spans[0].attributes
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tidegate",
        "gen_ai.request.model": "latest_checkpoint.pt",
        "gen_ai.response.model": TINY,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.seed": 7,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.stream": False,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 10,
        "tidegate.request_id": "mine",
    }
    assert {name: attributes.get(name) for name in expected} == expected
    assert 0 < attributes["gen_ai.response.time_to_first_chunk"] < 30
    decoded = [span for span in spans if span.name == "decode"]
    assert sorted(span.attributes["tidegate.choice.index"] for span in decoded) == [0, 1]
    assert re.search(rf"\[mine\].* trace_id={parent.trace_id}", traced.log.read_text())


def test_tritons_own_spans_are_children_of_the_step(traced: Traced, api_key: str) -> None:
    body = {"model": TINY, "prompt": "To be", "max_tokens": 20}
    for _ in range(5):  # Triton's exporter loses the spans of some requests: docs/monitoring.md
        parent = Parent()
        with client(traced.url, api_key) as http:
            http.post("/v1/completions", json=body, headers=parent.headers)
        if of_triton := traced.collector.of_triton(parent.trace_id, seconds=5):
            break
    spans = traced.collector.trace(parent.trace_id)
    step = next(span for span in spans if span.name == "step")
    assert of_triton.keys() == {"InferRequest", TINY, "compute"} and len(spans) == 8  # no token has spans
    assert of_triton["InferRequest"].parent_id == step.span_id
    assert of_triton["compute"].parent_id == of_triton[TINY].span_id


def test_prompts_that_share_a_step_each_have_its_span_and_the_others_name_the_first(traced: Traced, api_key: str) -> None:
    parent = Parent()
    body = {"model": TINY, "prompt": [f"One {secrets.token_hex(4)}", f"Two {secrets.token_hex(4)}"], "max_tokens": 3}
    with client(traced.url, api_key) as http:
        assert http.post("/v1/completions", json=body, headers=parent.headers).status_code == 200
    steps = [span for span in of_gateway(traced.collector.trace(parent.trace_id)) if span.name == "step"]
    assert [len(step.links) for step in steps] == [0, 1] and steps[1].links == [steps[0].span_id]
    assert steps[0].attributes["tidegate.step.rows"] == steps[1].attributes["tidegate.step.rows"] == 2


def test_what_the_client_does_not_sample_is_not_traced_and_neither_are_probes(traced: Traced, api_key: str) -> None:
    hidden, shown = Parent(sampled=False), Parent()
    with client(traced.url, api_key) as http:
        assert http.post("/v1/chat/completions", json=BODY, headers=hidden.headers).status_code == 200
        assert http.get("/health", headers=hidden.headers).status_code == 200
        http.post("/v1/chat/completions", json=BODY, headers=shown.headers)
    traced.collector.trace(shown.trace_id)
    assert [span for span in traced.collector.spans if span.trace_id == hidden.trace_id or "health" in span.name] == []


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + "a" * 32 + "-b-01"])
def test_a_traceparent_that_means_nothing_begins_a_trace_of_our_own(traced: Traced, api_key: str, header: str) -> None:
    request_id = secrets.token_hex(8)
    with client(traced.url, api_key) as http:
        http.get("/v1/models", headers={"traceparent": header, "X-Request-Id": request_id})
    for _ in until(10):  # the line comes after the answer
        if found := re.search(rf"\[{request_id}\].* trace_id=([0-9a-f]{{32}})", traced.log.read_text()):
            break
    assert found is not None and traced.collector.trace(found[1])[0].parent_id == ""


def test_errors_are_told_and_only_ours_make_a_span_fail(traced: Traced, api_key: str) -> None:
    unknown, refused = Parent(), Parent()
    with client(traced.url, api_key) as http:
        http.post("/v1/chat/completions", json=BODY | {"model": "gpt-5"}, headers=unknown.headers)
    httpx.post(f"{traced.url}/v1/chat/completions", json=BODY, headers=refused.headers)
    for parent, status, reason in ((unknown, 404, "model_not_found"), (refused, 401, "invalid_api_key")):
        (span,) = traced.collector.trace(parent.trace_id)
        assert (span.name, span.failed) == ("POST /v1/chat/completions", False)
        assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (status, reason)


def test_spans_hold_no_prompt_and_no_key(traced: Traced, api_key: str) -> None:
    told = str(traced.collector.spans)
    assert "chat " in told and SECRET not in told and api_key not in told


def test_a_stop_sends_what_waits(triton: Triton, tmp_path: Path, api_key: str) -> None:
    with collector() as collecting:
        slow = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.endpoint}
        with gateway_process(triton.grpc_address, tmp_path / "log", OTEL_SERVICE_NAME="gateway-7", **slow) as url:
            parent = Parent()
            with client(url, api_key) as http:
                http.get("/v1/models", headers=parent.headers)
            assert collecting.spans == []
        assert [span.service for span in collecting.trace(parent.trace_id)] == ["gateway-7"]


@contextmanager
def dead_collector(silent: bool) -> Iterator[str]:
    """``silent``: takes connections and never answers; else nobody listens there."""
    if not silent:
        yield f"http://127.0.0.1:{free_port()}"
        return
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_dead_collector_neither_breaks_nor_slows_nor_holds_the_gateway(
    triton: Triton, tmp_path: Path, api_key: str, silent: bool
) -> None:
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}  # ten times as many spans come
    with dead_collector(silent) as endpoint:
        environment = FAST | small | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with Gateway(triton.grpc_address, tmp_path / "log", **environment) as gateway, client(gateway.url, api_key) as http:
            for _ in range(40):
                began = time.monotonic()
                told = events(http.post("/v1/chat/completions", json=BODY | {"stream": True}))
                assert told[-1]["choices"][0]["finish_reason"] == "length"
                assert time.monotonic() - began < 5  # a timeout of the exporter is ten seconds
            began = time.monotonic()
            gateway.send(signal.SIGTERM)
            assert gateway.wait(20) == 0
            assert time.monotonic() - began < 5
    assert len([line for line in (tmp_path / "log").read_text().splitlines() if "opentelemetry" in line]) < 10


START = "import sys; {first}; import gateway.server; {then}"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_without_an_endpoint_neither_the_sdk_nor_the_exporter_is_imported() -> None:
    loaded = "[name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    done = python(START.format(first="pass", then=f"gateway.server.create_app(); print({loaded})"))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_with_an_endpoint_and_without_the_packages_the_start_says_what_is_missing() -> None:
    code = START.format(first="sys.modules['opentelemetry.sdk'] = None", then="gateway.server.run()")
    done = python(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert done.returncode == 1
    assert done.stderr.startswith("gateway: OTEL_EXPORTER_OTLP_ENDPOINT is set, and opentelemetry.sdk")
    assert "opentelemetry-exporter-otlp-proto-http" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is 'collector:4318'; it must be"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; it must be http/protobuf",
        ),
    ],
)
def test_a_bad_endpoint_stops_the_start_with_its_name(environment: dict[str, str], told: str) -> None:
    done = python(START.format(first="pass", then="gateway.server.run()"), **environment)
    assert done.returncode == 1 and done.stderr.startswith(f"gateway: {told}")
