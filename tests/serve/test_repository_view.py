"""A model that cannot be loaded costs nothing until its files change. With a real Triton."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from export.exporter import ExportSettings, export
from serve.repository_view import RepositoryView
from serve.triton_server import TritonServer
from tests.export import samples


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
