"""A Docker engine, the shipped images and the shipped compose files: built and started once a run, as they are."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.triton_server import free_port
from tests.deploy.engine import CPU_FILES, KEY, Engine, configuration
from tests.export import samples
from tests.missing import missing


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Skips loudly where it cannot run; with CI=true that is a failure."""
    lacks = [name for name in ("dockerd", "mmdebstrap", "iptables") if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin")]
    lacks += ["root's rights"] if os.geteuid() else []
    if lacks:
        message = f"NOT TESTED: the containers; this takes {', '.join(lacks)} (scripts/test-packages installs the packages)"
        missing(message)
    directory = Path(tempfile.mkdtemp(prefix="tidegate-docker-"))  # short: a socket's path has at most 107 characters
    try:
        with Engine(directory) as engine:
            engine.make_stand_ins()
            yield engine
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """The names of the images of docker-compose.cpu.yml, built; by service."""
    services = configuration(*CPU_FILES)["services"]
    for name in ("gateway", "triton", "export"):
        engine.build(services[name]["image"], services[name]["build"])
    return {name: service["image"] for name, service in services.items()}


class Stack:
    """What `docker compose -f docker-compose.yml -f docker-compose.cpu.yml` runs, with two small checkpoints to choose from."""

    def __init__(self, engine: Engine, checkpoints: Path) -> None:
        self.engine, self.port = engine, free_port()
        self.url = f"http://localhost:{self.port}"
        self.environment = {"MY_API_KEY": KEY, "PORT": str(self.port), "CHECKPOINTS": str(checkpoints)}
        # Neither is a `.pt`, so torch need not be built in.
        self.environment |= {"MODEL_CHECKPOINT": "first", "EXPORT_TARGET": "export"}

    def compose(self, *arguments: str, **environment: str) -> str:
        files = [f"--file={file}" for file in CPU_FILES]
        return self.engine.docker("compose", *files, *arguments, settings=self.environment | environment)

    def containers(self, service: str) -> list[str]:
        return sorted(self.compose("ps", "--all", "--quiet", service).split())

    def container(self, service: str) -> dict[str, Any]:
        """As `docker inspect` tells it, of the only one of a service."""
        (container,) = self.containers(service)
        return self.engine.inspect(container)

    def health(self) -> str:
        """What the health checks of Triton's container said."""
        (container,) = self.containers("triton")
        return self.engine.docker("inspect", "--format={{json .State.Health}}", container)

    def wait_until(self, what: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.compose('logs', '--tail=30')}"
            time.sleep(0.2)


@pytest.fixture(scope="session")
def stack(engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    checkpoints = tmp_path_factory.mktemp("compose") / "checkpoints"
    samples.hf_gpt2(checkpoints / "first", n_positions=1024)
    samples.hf_gpt2(checkpoints / "second", n_positions=1024, seed=1)
    for path in [checkpoints, *checkpoints.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # not root reads them
    stack = Stack(engine, checkpoints)
    try:
        try:
            stack.compose("up", "--wait", "--wait-timeout=120", "--no-build")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{stack.compose('logs')}\n{stack.health()}") from None
        yield stack
    finally:
        stack.compose("down", "--volumes")
