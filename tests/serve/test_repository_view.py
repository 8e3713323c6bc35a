"""A model that cannot be loaded costs nothing until its files change. With a real Triton."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from export.exporter import ExportSettings, export
from serve import repository_view
from serve.repository_view import RepositoryView
from serve.triton_server import TritonServer
from tests.export import samples

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # they wait for fixed times


class Served:
    """A model `good`, a model `broken` that lacks its card, and what was reported of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repository = directory / "repository"
        self.export(seed=0)
        shutil.copytree(self.repository / "good", self.repository / "broken")
        self.reported: list[str] = []
        self.triton = TritonServer(self.repository, directory / "run", env={"TIDEGATE_SLOTS": "2"}, report=self.reported.append)

    def export(self, seed: int) -> None:
        samples.nanogpt(self.directory / "model.pt", seed=seed)
        export(ExportSettings(self.directory / "model.pt", self.repository, "good", "fp32"))

    def card(self, name: str, version: int = 1) -> Path:
        return self.repository / name / str(version) / "model_card.json"

    def attempts(self, name: str, version: int = 1) -> int:
        return self.triton.log.read_text().count(f"failed to load '{name}' version {version}")

    def has_loaded(self, name: str, version: int = 1) -> bool:
        return f"successfully loaded '{name}'" in self.triton.log.read_text().partition(f"loading: {name}:{version}")[2]

    def processor_seconds(self) -> float:
        """Of Triton, its stubs, and all stubs that have ended."""
        server = psutil.Process(self.triton.pid)
        times = [process.cpu_times() for process in (server, *server.children())]
        return sum(one.user + one.system + one.children_user + one.children_system for one in times)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("view"))
    served.card("broken").unlink()
    with served.triton as triton:
        triton.wait_ready(60, needed="good")
        yield served


def soon(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(condition())


def test_a_model_that_cannot_be_loaded_is_let_be_until_its_files_change(served: Served) -> None:
    stubs = served.triton.stub_pids
    assert soon(lambda: served.reported)
    time.sleep(2.5)  # for an attempt that had begun
    attempts, used = served.attempts("broken"), served.processor_seconds()
    time.sleep(4.5)  # two of Triton's looks at least
    assert served.attempts("broken") == attempts <= 2
    assert served.processor_seconds() - used < 0.3  # it was 0.1 to 0.5 of a core
    (sentence,) = [sentence for sentence in served.reported if sentence.startswith("broken")]
    assert sentence.startswith("broken version 1 is not served until its files change: broken: [Errno 2]")
    assert "\n" not in sentence and "At:" not in sentence
    shutil.copy(served.card("good"), served.card("broken"))
    assert soon(lambda: served.has_loaded("broken"))
    assert set(stubs) < set(served.triton.stub_pids)


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_alone(served: Served) -> None:
    stubs = served.triton.stub_pids
    kept = served.card("good").read_bytes()
    (served.repository / "good" / "2").mkdir()
    for file in served.card("good").parent.iterdir():
        if file.name != "model_card.json":
            shutil.copy(file, served.repository / "good" / "2")
    assert soon(lambda: any("good version 2" in sentence for sentence in served.reported))
    time.sleep(2.5)
    attempts = served.attempts("good", 2)
    time.sleep(3)
    assert served.attempts("good", 2) == attempts and set(stubs) <= set(served.triton.stub_pids)
    served.card("good", 2).write_bytes(kept)
    assert soon(lambda: served.has_loaded("good", 2))
    shutil.rmtree(served.repository / "good" / "1")
    assert soon(lambda: "successfully unloaded 'good' version 1" in served.triton.log.read_text())


def test_what_triton_sees_follows_the_repository(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for version in ("a/1", "a/2", "b/1", "unfinished/1"):
        (repository / version).mkdir(parents=True)
    for model in ("a", "b"):
        (repository / model / "config.pbtxt").touch()
    with RepositoryView(repository, tmp_path / "shown", 9, print) as view:
        assert names(view.directory) == {"a": {"1", "2", "config.pbtxt"}, "b": {"1", "config.pbtxt"}}
        shutil.rmtree(repository / "b")
        (repository / "a" / "1").rmdir()
        (repository / "unfinished" / "config.pbtxt").touch()
        assert soon(
            lambda: names(view.directory) == {"a": {"2", "config.pbtxt"}, "unfinished": {"1", "config.pbtxt"}}, seconds=5
        )
    assert not view.directory.exists() and (repository / "a" / "2").is_dir()


def names(directory: Path) -> dict[str, set[str]]:
    return {model.name: {entry.name for entry in model.iterdir()} for model in directory.iterdir()}


class Index:
    """An index in which a test sets what Triton says: no real Triton can be held between two of its looks, or at a loading."""

    def __init__(self, directory: Path) -> None:
        self.repository = directory / "repository"
        self.reported: list[str] = []
        self._models: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.view = RepositoryView(self.repository, directory / "shown", self._server.server_port, self.reported.append)
        self._server.RequestHandlerClass = self._handler()

    def __enter__(self) -> "Index":
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        self.view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.view.stop()
        self._server.shutdown()
        self._server.server_close()

    def put(self, model: str, content: str = "") -> None:
        (self.repository / model / "1").mkdir(parents=True, exist_ok=True)
        (self.repository / model / "config.pbtxt").touch()
        (self.repository / model / "1" / "model_card.json").write_text(content)

    def says(self, model: str, state: str, reason: str = "") -> None:
        self._models[model] = {"name": model, "version": "1", "state": state, "reason": reason}

    def cannot_read(self, model: str) -> None:
        self._models[model] = {"name": model}

    def shows(self, model: str) -> bool:
        return (self.view.directory / model / "1").exists()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        models, directory = self._models, self.view.directory

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                listed = [model for name, model in models.items() if (directory / name).exists()]  # as Triton does
                body = json.dumps(listed).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """A model `a` that has failed and is let be. All waits are a fifth of the real ones."""
    for name in ("LOOK_INTERVAL", "ASK_INTERVAL", "JUDGED_AFTER"):
        monkeypatch.setattr(repository_view, name, getattr(repository_view, name) / 5)
    index = Index(tmp_path)
    index.put("a")
    index.says("a", "UNAVAILABLE", "no card")
    with index:
        assert soon(lambda: index.reported and not index.shows("a"), seconds=5)
        yield index


def test_a_model_that_is_put_back_is_tried_before_it_is_judged(index: Index) -> None:
    shutil.rmtree(index.repository / "a")
    time.sleep(1.3)  # longer than any wait
    index.put("a")
    time.sleep(0.5)  # Triton has not looked yet, and repeats its reason
    assert index.shows("a") and len(index.reported) == 1
    index.says("a", "LOADING")
    time.sleep(0.3)
    index.says("a", "UNAVAILABLE", "no card")
    assert soon(lambda: len(index.reported) == 2 and not index.shows("a"), seconds=0.8)


def test_a_model_that_is_mended_while_another_is_loading_is_tried_after_that(index: Index) -> None:
    index.put("b")
    index.says("b", "LOADING")
    index.put("a", "mended")
    time.sleep(1.5)
    assert index.shows("a")
    index.says("b", "READY")
    time.sleep(0.5)
    assert index.shows("a") and len(index.reported) == 1
    assert soon(lambda: len(index.reported) == 2, seconds=5)  # a failure too short to be seen loading


def test_a_model_that_never_ends_loading_does_not_keep_others_from_being_judged(index: Index) -> None:
    index.put("stuck")
    index.says("stuck", "LOADING")
    index.put("a", "another fault")
    assert soon(lambda: index.shows("a"), seconds=5)
    index.says("a", "UNAVAILABLE", "bad card")
    assert soon(lambda: len(index.reported) == 2 and not index.shows("a"), seconds=5)


def test_a_model_whose_configuration_cannot_be_read_is_let_be(index: Index) -> None:
    index.put("b")
    index.cannot_read("b")
    assert soon(lambda: index.shows("b"), seconds=5)
    assert soon(lambda: not index.shows("b"), seconds=5)
    assert index.reported[1:] == [
        "b version 1 is not served until its files change: Triton cannot use the model's config.pbtxt; its log says why"
    ]
    (index.repository / "b" / "config.pbtxt").write_text("mended")
    assert soon(lambda: index.shows("b"), seconds=5)


def test_files_that_change_while_they_are_loaded_are_tried_again_and_then_let_be(index: Index) -> None:
    index.put("b")
    assert soon(lambda: index.shows("b"), seconds=5)
    index.says("b", "LOADING")
    time.sleep(0.3)
    index.put("b", "other files")
    index.says("b", "UNAVAILABLE", "no model")
    assert soon(lambda: not index.shows("b"), seconds=5)
    reports = len(index.reported)
    time.sleep(1.5)
    assert not index.shows("b") and len(index.reported) == reports <= 3


def test_a_model_that_cannot_be_read_does_not_stop_the_others(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put("served")
    assert soon(lambda: index.shows("served"), seconds=5)
    iterdir = Path.iterdir  # a directory's mode does not bind root

    def refuse(path: Path) -> Any:
        if path in (index.repository / "served", index.repository / "unreadable"):
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    index.put("unreadable")
    index.put("b")
    assert soon(lambda: index.shows("b"), seconds=5)
    time.sleep(0.2)
    assert index.shows("served") and not index.shows("unreadable")
    assert sorted(index.reported[1:]) == [f"{name} cannot be read: Permission denied" for name in ("served", "unreadable")]
    index.view.stop()
    index.view.start()  # Triton starts with the others
    assert index.shows("b") and not index.shows("unreadable")


def test_links_that_were_not_finished_are_no_other_models(tmp_path: Path) -> None:
    for name in ("a", "z"):
        (tmp_path / "repository" / name / "1").mkdir(parents=True)
        (tmp_path / "repository" / name / "config.pbtxt").write_text(name)
    (tmp_path / "shown.new").mkdir()
    (tmp_path / "shown.new" / "config.pbtxt").symlink_to(tmp_path / "repository" / "z" / "config.pbtxt")
    with RepositoryView(tmp_path / "repository", tmp_path / "shown", 9, print) as view:
        assert [(view.directory / name / "config.pbtxt").read_text() for name in ("a", "z")] == ["a", "z"]
