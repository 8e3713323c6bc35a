"""What the gateway and the backend count of the same steps agrees, and texts that lose their cache are counted."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from gateway.engine.generation import AnswerRecord, GenerationRecord
from gateway.telemetry.metrics import GenerationMetrics, Metrics
from gateway.telemetry.request_record import RequestRecord
from testing.triton import Triton
from tests.conftest import TINY, gateway_process
from tests.gateway.http.test_disconnect import raw_request
from tests.gateway.http_client import CHAT, client, load, until
from tests.gateway.telemetry.test_metrics import value

BODY = CHAT | {"model": TINY, "ignore_eos": True, "temperature": 0}


@contextmanager
def watched(repository: Path, directory: Path, **settings: str) -> Iterator[tuple[Triton, str]]:
    with (
        Triton(repository, directory / "triton", [TINY], slots=2, metrics=True) as triton,
        gateway_process(triton.grpc_address, directory / "log", MODEL_NAME=TINY, **settings) as url,
    ):
        yield triton, url


def test_gateway_and_backend_count_the_same_steps_rows_and_tokens(model_repository: Path, tmp_path: Path, api_key: str) -> None:
    pairs = {
        "step_duration_seconds_count": "backend_steps_total",
        "batch_size_sum": "backend_step_rows_total",
        "iteration_tokens_sum": "backend_step_tokens_total",
    }
    with watched(model_repository, tmp_path) as (triton, url), client(url, api_key) as http:
        for n in (1, 2, 4):  # of four choices two wait
            body = BODY | {"messages": [{"role": "user", "content": f"{n} of them. " * 100}], "n": n, "max_tokens": 20}
            assert http.post("/v1/chat/completions", json=body).status_code == 200
        time.sleep(0.5)  # the last step of all only frees slots
        gateway, backend = httpx.get(f"{url}/metrics").text, triton.metrics()
        ours = {name: value(gateway, name, model=TINY) for name in pairs}
        assert ours == {name: value(backend, of_backend, model=TINY) for name, of_backend in pairs.items()}
        assert ours["iteration_tokens_sum"] > 600 and ours["batch_size_sum"] > ours["step_duration_seconds_count"]


@pytest.mark.slow
def test_drafted_and_accepted_tokens_are_counted_unless_speculation_is_off(
    model_repository: Path, tmp_path: Path, api_key: str
) -> None:
    body = BODY | {"messages": [{"role": "user", "content": "one two three " * 20}], "max_tokens": 300}
    told = {}
    for switch in ("on", "off"):
        with watched(model_repository, tmp_path, SPECULATION=switch) as (triton, url), client(url, api_key) as http:
            texts = http.post("/v1/chat/completions", json=body | {"n": 2}).json()["choices"]
            time.sleep(0.5)  # the last step of all only frees slots
            text, computed = httpx.get(f"{url}/metrics").text, value(triton.metrics(), "backend_step_tokens_total", model=TINY)
        drafted, accepted = (value(text, f"spec_decode_num_{what}_tokens_total", model=TINY) for what in ("draft", "accepted"))
        assert value(text, "generation_tokens_total", model=TINY) == 600
        assert value(text, "iteration_tokens_sum", model=TINY) == computed
        told[switch] = (drafted, accepted, [choice["message"]["content"] for choice in texts])
    drafted, accepted, texts = told["on"]
    assert drafted >= accepted > 20 and told["off"] == (0, 0, texts)


@pytest.mark.slow
def test_waiting_running_and_a_full_queue_are_told(model_repository: Path, tmp_path: Path, api_key: str) -> None:
    settings = {"MAX_WAITING": "1", "SPECULATION": "off"}
    with watched(model_repository, tmp_path, **settings) as (_, url), client(url, api_key) as http:
        assert value(httpx.get(f"{url}/metrics").text, "max_requests_waiting") == 1
        assert value(httpx.get(f"{url}/metrics").text, "num_slots", model=TINY) == 2
        long = BODY | {"max_tokens": 900, "logprobs": True, "top_logprobs": 20}  # takes its time
        with raw_request(url, api_key, long), raw_request(url, api_key, long):
            for _ in until(10):
                if load(url)[0] == 2:
                    break
            with raw_request(url, api_key, long):
                for _ in until(10):
                    if load(url)[1] == 1:
                        break
                assert http.post("/v1/chat/completions", json=BODY).status_code == 429
                text = httpx.get(f"{url}/metrics").text
                assert (value(text, "num_requests_running"), value(text, "num_requests_waiting")) == (2, 1)
                assert value(text, "requests_rejected_total", reason="overloaded") == 1


@pytest.mark.slow
def test_the_time_in_the_queue_is_not_that_of_the_prefill(model_repository: Path, tmp_path: Path, api_key: str) -> None:
    with watched(model_repository, tmp_path) as (_, url), client(url, api_key) as http:
        assert http.post("/v1/chat/completions", json=BODY | {"n": 4, "max_tokens": 200}).status_code == 200
        text = httpx.get(f"{url}/metrics").text
    times = {name: value(text, f"request_{name}_time_seconds_sum") for name in ("queue", "prefill", "decode")}
    assert {value(text, f"request_{name}_time_seconds_count") for name in times} == {4}
    assert times["queue"] > times["prefill"] > 0  # two of the four wait for the two others
    assert times["decode"] > times["prefill"]
    assert value(text, "request_generation_tokens_sum") == 800 and value(text, "request_generation_tokens_count") == 4
    assert value(text, "request_prompt_tokens_count") == 1


@pytest.mark.slow
def test_a_restart_of_triton_is_a_recovery_and_not_a_failure(model_repository: Path, tmp_path: Path, api_key: str) -> None:
    with watched(model_repository, tmp_path) as (triton, url), client(url, api_key) as http:
        with http.stream("POST", "/v1/chat/completions", json=BODY | {"max_tokens": 900, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(triton.pid, signal.SIGKILL)
            for _ in until(10):
                if value(httpx.get(f"{url}/metrics").text, "num_tritons", state="failing"):
                    break
            text = httpx.get(f"{url}/metrics").text
            assert (value(text, "num_tritons", state="failing"), value(text, "num_tritons", state="answering")) == (1, 0)
            assert value(text, "num_slots") == 0
            triton.stop()
            triton.start()
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        for _ in until(10):
            if value(httpx.get(f"{url}/metrics").text, "recoveries_total", model=TINY):
                break
        text = httpx.get(f"{url}/metrics").text
    assert value(text, "recoveries_total", model=TINY) == 1 and value(text, "step_failures_total", model=TINY) >= 1
    assert value(text, "requests_failed_total") == 0 and value(text, "num_tritons", state="answering") == 1


@pytest.mark.slow
def test_a_triton_that_dies_while_nobody_asks_is_counted_out_and_in_again(model_repository: Path, tmp_path: Path) -> None:
    """A health check finds it out; no request has to."""

    def answering() -> float:
        return value(httpx.get(f"{url}/metrics").text, "num_tritons", model=TINY, state="answering")

    with watched(model_repository, tmp_path) as (triton, url):
        assert answering() == 1
        os.kill(triton.pid, signal.SIGKILL)
        for _ in until(10):
            if httpx.get(f"{url}/readyz").status_code == 503 and answering() == 0:
                break
        assert answering() == 0
        triton.stop()
        triton.start()
        for _ in until(60):
            if answering() == 1:
                break
        assert answering() == 1


def test_a_prompt_that_nothing_came_of_is_not_among_those_that_were_computed() -> None:
    metrics = Metrics(list)
    for computed, answer in enumerate((AnswerRecord(), AnswerRecord(tokens=2))):
        measured = GenerationMetrics(metrics, TINY, RequestRecord("id", "POST"))
        measured.note_end(GenerationRecord(5000, answers=[answer]))
        text = metrics.exposition("")[0].decode()
        assert value(text, "prompt_tokens_total") == 5000 * computed
        assert value(text, "request_prompt_tokens_count") == computed


def test_the_alerts_denominator_grows_from_the_first_request_on() -> None:
    text = Metrics(list).exposition("")[0].decode()
    routes = re.compile(r"/generate|/v1/(chat/completions|completions|responses)")  # of monitoring/alerts.yml
    samples = [sample for family in parse(text) for sample in family.samples if sample.name == "tidegate_http_requests_total"]
    assert samples and all(routes.fullmatch(sample.labels["route"]) and sample.value == 0 for sample in samples)
    assert {sample.labels["status"] for sample in samples} >= {"200", "429", "500", "503"}


@pytest.mark.slow
def test_every_reason_is_there_before_it_happens_and_none_comes_from_a_client(
    model_repository: Path, tmp_path: Path, api_key: str
) -> None:
    with watched(model_repository, tmp_path) as (_, url), client(url, api_key) as http:
        before = reasons(url)
        assert {"overloaded", "rate_limit_exceeded", "invalid_api_key", "model_not_found", "invalid_request"} <= before
        assert {"backend_unavailable", "server_error"} <= before
        http.post("/v1/chat/completions", json=BODY | {"model": "a_name_of_a_client"})
        http.post("/v1/chat/completions", json=BODY | {"a_field_of_a_client": 1})
        http.get("/a/path/of/a/client")
        httpx.post(f"{url}/generate", headers={"X-API-Key": "a_key_of_a_client"})
        assert reasons(url) == before
        assert value(httpx.get(f"{url}/metrics").text, "requests_rejected_total") == 4


def reasons(url: str) -> set[str]:
    samples = [sample for family in parse(httpx.get(f"{url}/metrics").text) for sample in family.samples]
    return {sample.labels["reason"] for sample in samples if "reason" in sample.labels}
