"""Models come, are replaced and go while a real Triton and a real gateway run, and no request fails."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from export.exporter import ExportSettings, export
from serve.triton_server import TritonServer
from serve.version_cleanup import Retirement
from testing.gateway import Gateway
from testing.proc import family
from tests.export import samples
from tests.gateway.http_client import client, events, until

KEPT = "kept"  # a model that is always there
PROMPTS = ["To be", "The king", "Who is there?", "Good night, "]
CONTEXT = 8000  # tokens
LONG = 18.0  # seconds that texts have to take: more than it takes to notice a new version


@dataclass
class Served:
    repository: Path
    triton: TritonServer
    gateway: Gateway
    http: httpx.Client

    def export(self, name: str, seed: int) -> None:
        """A tiny character model; another seed, other weights. Its context is long, so that texts may take a while."""
        export_characters(self.repository, name, seed)

    def chat(self, name: str, prompt: str = PROMPTS[0], **options: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=body(name, prompt, **{"max_tokens": 8} | options))

    def text(self, name: str, prompt: str = PROMPTS[0], **options: Any) -> str:
        answer = self.chat(name, prompt, **options)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def names(self) -> list[str]:
        return [model["id"] for model in self.http.get("/v1/models").json()["data"]]

    def health(self) -> dict[str, Any]:
        models: dict[str, Any] = self.http.get("/health").json()["data"]["models"]
        return models

    def loaded(self, name: str) -> list[int]:
        """Its versions in Triton's log: what was loaded last and not unloaded since."""
        found: set[int] = set()
        for line in self.triton.log.read_text().splitlines():
            if f"loading: {name}:" in line:
                found.add(int(line.split(f"loading: {name}:")[1].strip(' "')))
            elif f"successfully unloaded '{name}' version " in line:
                found.discard(int(line.split("version ")[1].strip(' "')))
        return sorted(found)


def body(name: str, prompt: str = PROMPTS[0], **options: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": prompt}], "temperature": 0.9, "seed": 7} | options


def export_characters(repository: Path, name: str, seed: int) -> None:
    folder = repository.parent / f"{name}-{seed}"
    folder.mkdir()
    samples.nanogpt(folder / "model.pt", seed=seed, block_size=CONTEXT)
    export(ExportSettings(folder / "model.pt", repository, name, "fp32", context_length=CONTEXT))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, api_key: str) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("models")
    repository = directory / "repository"
    export_characters(repository, KEPT, 0)
    with TritonServer(repository, directory / "triton", env={"TIDEGATE_SLOTS": "10"}) as triton:
        triton.wait_ready(60, needed=KEPT)
        with (
            Gateway(triton.grpc_address, directory / "log", RUN_AHEAD="off") as gateway,
            client(gateway.url, api_key) as http,
        ):
            http.timeout = httpx.Timeout(300)  # seconds: two models at once on a machine that does other things too
            yield Served(repository, triton, gateway, http)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    for _ in until(seconds):
        if condition():
            return
    raise AssertionError(f"not so after {seconds} seconds")


@contextmanager
def hammer(served: Served, name: str) -> Iterator[list[tuple[int, str]]]:
    """Asks for the same short text again and again; yields the list of (status, text or error) that it appends to."""
    answers: list[tuple[int, str]] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            answer = served.chat(name)
            text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text
            answers.append((answer.status_code, text))
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        end.set()
        thread.join()


def test_a_new_export_is_listed_and_served_within_ten_seconds(served: Served) -> None:
    assert served.names() == [KEPT]
    kept = served.text(KEPT)
    served.export("another", 1)
    wait_for(lambda: "another" in served.names(), 10)
    assert served.text("another") != kept
    assert served.text(KEPT) == kept == served.text("latest_checkpoint.pt")


@pytest.mark.alone  # the swap has to come while the texts run
def test_a_model_that_is_replaced_finishes_its_texts_and_no_request_fails(served: Served, tmp_path: Path) -> None:
    name = "replaced"
    served.export(name, 2)
    wait_for(lambda: name in served.names(), 10)
    old = served.text(name)
    requests: list[dict[str, Any]] = [{"prompt": prompt, "temperature": heat} for prompt in PROMPTS for heat in (0, 0.9)]
    with ThreadPoolExecutor(len(requests)) as pool:
        began = time.monotonic()
        list(pool.map(lambda options: served.text(name, **options, max_tokens=100), requests))
        long = {"max_tokens": min(CONTEXT - 100, int(100 * LONG / (time.monotonic() - began)))}
        requests = [options | long for options in requests]
        expected = list(pool.map(lambda options: served.text(name, **options), requests))
        assert len(set(expected)) > len(PROMPTS)  # greedy texts of such a model may be alike
        with hammer(served, name) as answers:
            texts = [pool.submit(served.text, name, **options) for options in requests]
            wait_for(lambda: served.health()[name]["running"] >= len(requests), 10)
            served.export(name, 3)
            wait_for(lambda: served.health()[name]["version"] == "2", 10)
            # The swap came while they ran; greedy texts of such a model repeat themselves, and drafts make them quicker.
            assert served.health()[name]["older"]["1"]["running"] >= len(PROMPTS)
            new = served.text(name)
            assert [text.result() for text in texts] == expected
    assert new != old
    assert [status for status, _ in answers] == [200] * len(answers)
    changed = [text for _, text in answers].index(new)
    assert {text for _, text in answers[:changed]} == {old} and {text for _, text in answers[changed:]} == {new}

    wait_for(lambda: served.health()[name]["older"] == {}, 15)
    expected_new = served.text(name, **long)
    with (
        hammer(served, name) as answers,
        ThreadPoolExecutor(1) as pool,
        Retirement(served.repository) as keeper,
    ):
        text = pool.submit(served.text, name, **long)
        keeper.retire_idle(served.health())
        assert [path.name for path in (served.repository / name).iterdir() if path.is_dir()] == ["2"]
        wait_for(lambda: served.loaded(name) == [2], 10)
        assert text.result() == expected_new
    assert set(answers) == {(200, new)}


@pytest.mark.slow
def test_a_model_that_was_removed_is_not_found_and_the_others_go_on(served: Served) -> None:
    name = "removed"
    served.export(name, 4)
    wait_for(lambda: name in served.names(), 10)
    with hammer(served, KEPT) as answers:
        with served.http.stream(
            "POST", "/v1/chat/completions", json=body(name, stream=True, max_tokens=CONTEXT - 100)
        ) as stream:
            shutil.move(served.repository / name, served.repository.parent / "away")
            wait_for(lambda: name not in served.names(), 10)
            stream.read()
        assert served.chat(name).status_code == 404
    *_, last = events(stream)
    assert last["error"]["message"] == f"The model {name} was removed."
    assert last["error"]["code"] == "backend_unavailable"
    assert len({*answers}) == 1 and answers[0][0] == 200
    assert served.health().keys() >= {KEPT}


@pytest.mark.slow
def test_a_model_that_was_removed_leaves_no_process_in_the_gateway(served: Served) -> None:
    def processes() -> set[int]:
        return {process.pid for process in family(served.gateway.pid)}

    served.text(KEPT)  # its process has begun
    name, before = "brief", processes()
    served.export(name, 7)
    wait_for(lambda: name in served.names(), 20)
    served.text(name, response_format={"type": "regex", "regex": "a+"})
    own = processes() - before
    assert len(own) in (2, 3)  # for prompts, one or two; for grammars, one
    shutil.move(served.repository / name, served.repository.parent / "gone")
    wait_for(lambda: not own & processes(), 30)
    assert name not in served.names()


@pytest.mark.slow
def test_files_replaced_under_the_same_version_never_continue_a_text(served: Served, tmp_path: Path) -> None:
    name = "overwritten"
    served.export(name, 5)
    export_characters(tmp_path / "repository", name, 6)
    wait_for(lambda: name in served.names(), 10)
    old = served.text(name)
    with served.http.stream("POST", "/v1/chat/completions", json=body(name, stream=True, max_tokens=CONTEXT - 100)) as stream:
        (served.repository / name / "1").rename(tmp_path / "old")
        (tmp_path / "repository" / name / "1").rename(served.repository / name / "1")
        stream.read()
    *_, last = events(stream)
    assert last["error"]["message"] == f"The model {name} was replaced. Please try again."
    assert served.text(name) != old
