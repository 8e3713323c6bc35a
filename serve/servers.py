"""The servers running here. Each `tidegate serve` has its own directory, RUN/PORT, and holds its lock while it lives.

There, `server.json` describes the server, and `served/` has a file named after each model that it serves. An export adds one so
that the model is served at once; `tidegate remove` deletes it.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.paths import RUN

LOCK = "supervisor.pid"


@dataclass(frozen=True)
class Server:
    process: int
    url: str
    repository: str
    model: str  # the one it was started for
    everything: bool  # MODELS=all: it serves every model in the repository
    directory: str

    def serves(self, model: str) -> bool:
        return self.everything or self._mark(model).exists()

    def serve(self, model: str) -> None:
        self._mark(model).touch()

    def drop(self, model: str) -> None:
        self._mark(model).unlink(missing_ok=True)

    def _mark(self, model: str) -> Path:
        return Path(self.directory) / "served" / model


@contextmanager
def registered(server: Server, models: tuple[str, ...]) -> Iterator[Server]:
    """Registers ``server``, serving ``models``, for the duration of the block. Its directory's lock must be held."""
    directory = Path(server.directory)
    shutil.rmtree(directory / "served", ignore_errors=True)
    (directory / "served").mkdir(parents=True)
    for model in models:
        server.serve(model)
    (directory / "server.json").write_text(json.dumps(asdict(server)))
    try:
        yield server
    finally:
        (directory / "server.json").unlink(missing_ok=True)


def running(repository: Path, run: Path = RUN) -> list[Server]:
    """The servers that serve from ``repository``, sorted by port."""
    found = []
    for file in sorted(run.glob("*/server.json")):
        if is_held(file.with_name(LOCK)):
            server = Server(**json.loads(file.read_text()))
            if server.repository == str(repository):
                found.append(server)
    return found


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock file."""
    with lock.open() as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
