"""Metrics: readable by Prometheus, and they count what happened."""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from gateway import keys
from gateway.engine.generation import AnswerRecord, GenerationRecord
from gateway.telemetry.metrics import BUCKETS, GenerationMetrics, Metrics
from gateway.telemetry.request_record import RequestRecord
from gateway.telemetry.token_pace import TokenPace
from serve.triton_server import TritonServer
from tests.conftest import TINY, gateway_process
from tests.gateway.http.test_disconnect import raw_request
from tests.gateway.http_client import CHAT, client, events, load, until

BODY = CHAT | {"model": TINY, "max_tokens": 5, "ignore_eos": True, "temperature": 0}


class Metered(NamedTuple):
    url: str
    key: str
    limited_key: str

    def value(self, name: str, **labels: str) -> float:
        """Of the samples with these labels together; 0 where there is none yet."""
        return value(httpx.get(f"{self.url}/metrics").text, name, **labels)


def value(text: str, name: str, **labels: str) -> float:
    samples = [sample for family in parse(text) for sample in family.samples]
    return sum(
        sample.value for sample in samples if sample.name == f"tidegate_{name}" and labels.items() <= sample.labels.items()
    )


@pytest.fixture(scope="module")
def metered(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metered]:
    directory = tmp_path_factory.mktemp("metered")
    file = directory / "keys.json"
    key, limited = keys.create(file, "alice"), keys.create(file, "bob", requests_per_minute=1)
    with gateway_process(
        triton.grpc_address, directory / "log", MODEL_NAME=TINY, API_KEYS_FILE=str(file), RUN_AHEAD="off"
    ) as url:
        yield Metered(url, key, limited)


def test_metrics_need_no_key_and_are_what_prometheus_reads(metered: Metered) -> None:
    response = httpx.get(f"{metered.url}/metrics")
    assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/plain; version=")
    assert all(family.name.startswith("tidegate_") and family.documentation for family in parse(response.text))
    asked = httpx.get(f"{metered.url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(parse_openmetrics(asked.text))
    head = httpx.head(f"{metered.url}/metrics")
    assert (head.status_code, head.content) == (200, b"")


def test_a_generation_is_counted_and_timed(metered: Metered) -> None:
    totals = ("generation_tokens_total", "prompt_tokens_total", "cached_prompt_tokens_total")
    histograms = {"time_to_first_token_seconds": 2, "time_per_output_token_seconds": 8, "e2e_request_latency_seconds": 2}
    names = (*totals, *(f"{name}_count" for name in histograms), "e2e_request_latency_seconds_sum")
    before = {name: metered.value(name, model=TINY) for name in names}
    ended = metered.value("request_success_total", model=TINY, finished_reason="length")
    with client(metered.url, metered.key) as http:
        usage = http.post("/v1/chat/completions", json=BODY).json()["usage"]
        assert events(http.post("/v1/chat/completions", json=BODY | {"stream": True}))
    grown = {name: metered.value(name, model=TINY) - before[name] for name in names}
    assert grown["generation_tokens_total"] == 10
    assert grown["prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert 0 <= grown["cached_prompt_tokens_total"] <= 2 * usage["prompt_tokens"]
    assert {name: grown[f"{name}_count"] for name in histograms} == histograms
    assert 0 < grown["e2e_request_latency_seconds_sum"] < 30
    assert metered.value("request_success_total", model=TINY, finished_reason="length") == ended + 2


def test_requests_are_counted_by_route_method_and_status(metered: Metered) -> None:
    asked = [
        ("GET", "/v1/models/gpt-5", "/v1/models/{name}", "404"),
        ("GET", "/a/path/that/there/is/not", "(none)", "404"),
        ("POST", "/v1/models", "/v1/models", "405"),
        ("HEAD", "/livez", "/livez", "200"),
        ("GET", "/static/js/main.js", "/static/{path}", "200"),
    ]
    with client(metered.url, metered.key) as http:
        for method, path, route, status in asked:
            before = metered.value("http_requests_total", route=route, method=method, status=status)
            assert http.request(method, path).status_code == int(status)
            assert metered.value("http_requests_total", route=route, method=method, status=status) == before + 1
        http.post("/v1/chat/completions", json=BODY | {"model": "a_name_of_a_client"})
    text = httpx.get(f"{metered.url}/metrics").text
    assert "a_name_of_a_client" not in text and "there/is/not" not in text and "gpt-5" not in text


def test_what_a_limit_refuses_is_counted(metered: Metered) -> None:
    with client(metered.url, metered.limited_key) as http:
        statuses = [http.post("/v1/chat/completions", json=BODY).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert metered.value("rate_limited_total", limit="requests_per_minute") == 2


@pytest.mark.alone  # its text takes a fraction of a second
def test_what_runs_is_told_while_it_runs(metered: Metered) -> None:
    with raw_request(metered.url, metered.key, BODY | {"max_tokens": 900}):
        for _ in until(5):
            if load(metered.url)[0]:
                break
        assert metered.value("num_requests_running", model=TINY) == 1
        assert metered.value("num_requests_waiting", model=TINY) == 0
    for _ in until(5):
        if metered.value("num_requests_running", model=TINY) == 0:
            break
    assert metered.value("num_requests_running", model=TINY) == 0
    assert metered.value("http_requests_total", route="/v1/chat/completions", status="499") == 1


def test_two_applications_in_a_process_do_not_mix() -> None:
    one, other = Metrics(list), Metrics(list)
    measured = GenerationMetrics(one, TINY, RequestRecord("id", "POST"))
    answer = AnswerRecord(tokens=2, cached_tokens=1, finish_reason="stop")
    measured.note_tokens(answer, 2, time.monotonic())
    measured.note_end(GenerationRecord(prompt_tokens=3, answers=[answer]))
    assert value(one.exposition("")[0].decode(), "generation_tokens_total", model=TINY) == 2
    assert value(one.exposition("")[0].decode(), "cached_prompt_tokens_total", model=TINY) == 1
    assert value(other.exposition("")[0].decode(), "generation_tokens_total") == 0


def test_time_per_output_token_is_what_the_librarys_histogram_tells_of_every_token() -> None:
    pace, registry = TokenPace(BUCKETS), CollectorRegistry()
    name = "tidegate_time_per_output_token_seconds"
    expected = Histogram(name, "As ours.", ["model"], buckets=BUCKETS, registry=registry).labels(TINY)
    for tokens, seconds in ((1, 0.003), (8, 0.001), (3, 0.0025), (2, 70.0), (1, 0.0)):
        pace.of(TINY).note(tokens, seconds)
        for _ in range(tokens):
            expected.observe(seconds)
    pace.of(TINY).note_first(4)  # those behind the first came with it
    for _ in range(3):
        expected.observe(0.0)

    def samples(families: Iterable[Metric]) -> dict[str, float]:
        samples = [sample for family in families for sample in family.samples if sample.name.startswith(name)]
        return {f"{one.name} {one.labels}": one.value for one in samples if not one.name.endswith("_created")}

    assert samples(pace.collect()) == pytest.approx(samples(registry.collect()))
    assert pace.of(TINY).tokens == 15 + 4


def test_answers_to_one_prompt_count_what_was_cached_of_it_once(metered: Metered) -> None:
    prompt = f"Counted once. {'All that glitters is not gold. ' * 8}"
    body = {"model": TINY, "prompt": prompt, "n": 4, "max_tokens": 2, "temperature": 0}
    for _ in range(2):
        before = metered.value("cached_prompt_tokens_total", model=TINY)
        with client(metered.url, metered.key) as http:
            usage = http.post("/v1/completions", json=body).json()["usage"]
        counted = metered.value("cached_prompt_tokens_total", model=TINY) - before
        assert counted == usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 < counted < usage["prompt_tokens"]


def test_a_request_that_is_refused_before_it_begins_tells_nothing_of_latency(metered: Metered) -> None:
    before = metered.value("e2e_request_latency_seconds_count")
    with client(metered.url, metered.key) as http:
        answer = http.post("/v1/completions", json={"model": TINY, "prompt": [1] * 5000, "max_tokens": 5})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert metered.value("e2e_request_latency_seconds_count") == before
