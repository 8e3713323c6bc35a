"""Several models and several servers: what is served where, what a live export adds, what a removal takes away."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from testing.models import export
from testing.server import PORT, Server
from tests.conftest import ROOT
from tests.export import samples
from tests.gateway.http_client import until

KEY = {"X-API-Key": "key"}


class Machine:
    """Two checkpoints, a model repository with both, and a server of each; the second one was asked for both."""

    def __init__(self, directory: Path, running: ExitStack) -> None:
        self.directory, self.repository = directory, directory / "models"
        samples.nanogpt(directory / "one.pt", seed=1)
        export(directory / "one.pt", "--precision", "fp32", repository=self.repository)
        shutil.copy(directory / "one.pt", directory / "two.pt")
        self._running = running
        self.first = self.serve("--model-name", "one")
        self.second = self.serve(directory / "two.pt", "--precision", "fp32", "--models", "one")

    def serve(self, *arguments: str | Path) -> Server:
        command = [sys.executable, "-m", "tidegate", "serve", *arguments, "--port", PORT]
        log = self.directory / f"log {arguments[0]} {arguments[1]}".replace("/", "_")
        return self._running.enter_context(Server(command, log, env=self._environment))

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tidegate", *map(str, arguments)]
        env = os.environ | self._environment
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)

    @property
    def _environment(self) -> dict[str, str]:
        return {"MODEL_REPOSITORY": str(self.repository), "SLOTS": "2", "MY_API_KEY": "key", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with ExitStack() as running:
        yield Machine(tmp_path_factory.mktemp("machine"), running)


def names(server: Server) -> set[str]:
    return {model["id"] for model in httpx.get(f"{server.url}/v1/models", headers=KEY).json()["data"]} - {
        "latest_checkpoint.pt"
    }


def test_a_server_has_the_model_it_was_started_for_and_others_only_when_asked(machine: Machine) -> None:
    assert "MODEL_CHECKPOINT is not set: one stays as it was exported" in machine.first.log.read_text()
    assert (names(machine.first), names(machine.second)) == ({"one"}, {"one", "two"})
    lines = machine.run("models").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSIONS", "PRECISION", "CONTEXT", "SIZE", "CHECKPOINT", "SERVED", "AT"]
    one, two = (line.split(maxsplit=7) for line in lines[1:])
    assert one[:4] == ["one", "1", "fp32", "128"] and one[5:7] == ["kB", "one.pt"]
    assert sorted(one[7].split(", ")) == sorted(f"{server.url} (version 1)" for server in (machine.first, machine.second))
    assert two[0] == "two" and two[7] == f"{machine.second.url} (version 1)"


@pytest.mark.slow
def test_a_live_export_is_served_at_once_and_a_removal_drops_it_while_the_rest_stays_ready(machine: Machine) -> None:
    shutil.copy(machine.directory / "one.pt", machine.directory / "three.pt")
    exported = machine.run("export", machine.directory / "three.pt", "--precision", "fp32")
    assert exported.returncode == 0 and f"The server at {machine.first.url} serves three within seconds" in exported.stdout
    for server in (machine.first, machine.second):
        assert any("three" in names(server) for _ in until(20))
    removed = machine.run("remove", "three")
    assert removed.returncode == 0 and "Removed three (1 version): " in removed.stdout and " freed in " in removed.stdout
    unready = 0
    for _ in until(20):
        unready += httpx.get(f"{machine.first.url}/readyz").status_code != 200
        if "three" not in names(machine.first) | names(machine.second):
            break
    assert names(machine.first) == {"one"} and unready <= 25  # until the gateway's next look, two seconds at most
    assert not (machine.repository / "three").exists()


def test_a_model_that_is_not_there_or_that_a_server_was_started_for_is_not_removed(machine: Machine) -> None:
    unknown = machine.run("remove", "tow")
    assert unknown.returncode == 1
    assert unknown.stderr == f"tidegate: there is no model 'tow' in {machine.repository}: it has one, two; did you mean two?\n"
    needed = machine.run("remove", "two")
    assert needed.returncode == 1
    assert f"two is what the server at {machine.second.url} was started for: stop that first" in needed.stderr
    assert names(machine.second) == {"one", "two"}


@pytest.mark.slow
def test_a_start_does_not_replace_what_another_server_serves(machine: Machine) -> None:
    other = machine.directory / "elsewhere" / "two.pt"
    other.parent.mkdir()
    samples.nanogpt(other, seed=2)
    refused = machine.run("serve", other, "--port", "5998")
    assert refused.returncode == 1
    assert f"the server at {machine.second.url} serves another export named two" in refused.stderr
    assert [path.name for path in (machine.repository / "two").iterdir() if path.is_dir()] == ["1"]
