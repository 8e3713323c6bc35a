"""What `pip install` and `uv tool install` make: a command that works without a clone."""

import json
import os
import site
import subprocess
import sys
import tomllib
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import VERSION
from serve.installation import DEMONSTRATION, LOCK, PACKAGES, TRITON, VOCABULARY
from testing.server import PORT, Server
from tests.conftest import ROOT
from tests.export import samples

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the environment says


class Installed:
    """The wheel in an environment of its own, which sees this one's packages: not the clone. Its user stands in a directory
    whose folders have our packages' names."""

    def __init__(self, directory: Path) -> None:
        self.home, self.work = directory / "home", directory / "work"
        self._build(directory)
        for name in ("export", "gateway", "serve"):
            (self.work / name).mkdir(parents=True)
            (self.work / name / "__init__.py").write_text("raise SystemExit('a folder of the user')")
        samples.nanogpt(self.work / "mine.pt", seed=3)

    def _build(self, directory: Path) -> None:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
        (wheel,) = directory.glob("tidegate-*.whl")
        venv.create(directory / "venv", with_pip=False)
        self._bin = directory / "venv" / "bin"
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "install", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
        (packages,) = (directory / "venv" / "lib").glob("python*/site-packages")
        (packages / "others.pth").write_text("\n".join(site.getsitepackages()))

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "MY_API_KEY": "key", "SLOTS": "2"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._bin / "tidegate"), *arguments]
        return subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=60)

    def serve(self, log: Path) -> Server:
        start = f"cd {self.work} && exec {self._bin / 'tidegate'} serve mine.pt --precision fp32 --port {PORT}"
        bare = [f"--unset={name}" for name in os.environ if name not in self.environment]
        return Server(["env", *bare, "sh", "-c", start], log, env=self.environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    yield Installed(tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
def test_an_installed_tidegate_serves_a_checkpoint_from_any_directory(installed: Installed, tmp_path: Path) -> None:
    with installed.serve(tmp_path / "log") as server:
        body = json.dumps({"model": "mine", "prompt": "The sea", "max_tokens": 4}).encode()
        headers = {"X-API-Key": "key", "Content-Type": "application/json"}
        with DIRECT.open(urllib.request.Request(f"{server.url}/v1/completions", body, headers), timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 4
        with DIRECT.open(f"{server.url}/", timeout=60) as page:
            assert b"<!doctype html>" in page.read()[:100].lower()
        listed = installed.run("models").stdout
    state = installed.home / ".local" / "share" / "tidegate"
    assert (state / "model_repository" / "mine" / "1" / "model.onnx").exists()
    assert (state / "run" / str(server.port) / "triton.log").exists()
    assert "mine" in listed and server.url in listed
    assert {path.name for path in installed.work.iterdir()} == {"export", "gateway", "serve", "mine.pt", "meta.pkl"}


def test_the_command_knows_its_version_and_that_a_start_would_work(installed: Installed) -> None:
    assert installed.run("--version").stdout == f"tidegate {VERSION}\n"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    checked = installed.run("check", "--port", "5997")
    assert checked.returncode == 0, checked.stdout
    assert str(installed.home / ".local" / "share" / "tidegate" / "model_repository") in checked.stdout


def test_what_the_first_start_installs_is_in_the_lock_with_its_hashes() -> None:
    lock = (ROOT / "requirements" / LOCK.name).read_text()
    packages = {match[1]: match[0] for match in PACKAGES.finditer(lock)}
    assert len(packages) == lock.count("==")
    for name in (TRITON, VOCABULARY, DEMONSTRATION):
        assert packages[name].count("--hash=sha256:") >= 1 and not packages[name].endswith("\\")
