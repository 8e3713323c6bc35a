"""Runs a real Triton on this machine: `tritonserver` from the `nvidia-pytriton` wheel, with our backend added.

with TritonServer(model_repository, run_dir, ["smollm2"]) as triton:
    triton.wait_ready(60)
    ... triton.grpc_address ...
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serve.model_memory import ModelMemory, model_memory
from serve.processes import GuardedProcess, children, is_alive, is_zombie
from serve.python_facts import libpython_directory
from serve.repository_view import RepositoryView, sentence

BACKENDS = Path(__file__).resolve().parent.parent / "backends"
POLL_INTERVAL = 2  # seconds between Triton's polls of the repository
STUB_SEARCH_INTERVAL = 5.0  # seconds: a search reads all of /proc
STUB_NAME = "triton_python_backend_stub"
LIBRARIES = "libraries"  # in the backend directory: the shared libraries that the stub needs
# Log lines that explain no failure: empty ones, tables, info messages, and the absence of a GPU.
UNTELLING = re.compile(r"\s*$|[+|]|I\d{4} |.*(pinned_memory_manager|CudaDriverHelper)")


REFUSED = re.compile(r"failed to load '(.+?)' version \d+: (.*?)\"?$", re.MULTILINE)


class TritonError(Exception):
    """Triton did not start, or stopped. The message says why, as far as its log explains it."""


class TritonServer:
    """One `tritonserver` process on a free port of 127.0.0.1.

    Exactly ``models`` are loaded. None: every model in the repository for which ``shows`` returns True, re-scanned every few
    seconds; ``report`` then receives a sentence for each version that could not be loaded (serve/repository_view.py). ``env``
    is added to the environment of the server, and thereby of our backend. ``run_dir`` receives the backend directory and
    `triton.log`; two servers must not share one. The port stays the same across restarts.
    """

    def __init__(
        self,
        model_repository: Path,
        run_dir: Path,
        models: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda sentence: None,
        shows: Callable[[str], bool] = lambda model: True,
    ) -> None:
        self._model_repository = model_repository.resolve()
        self._run_dir = run_dir.resolve()
        self._backend_directory = self._run_dir / "backends"
        self._models = models
        self._env = _environment(self._backend_directory / LIBRARIES, env or {})
        self._port, http_port = free_port(), free_port()
        self._view = RepositoryView(self._model_repository, self._run_dir / "models", http_port, report, shows)
        self._process: GuardedProcess | None = None
        self._stubs: list[int] = []  # from the last search, including dead ones
        self._next_search = 0.0  # for stubs
        self._log_start = 0  # offset in the log where the current run begins
        self.log = self._run_dir / "triton.log"
        self.shm_prefix = f"tidegate_{os.getpid()}_{self._port}_"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the `tritonserver` process. Raises TritonError if it was never started."""
        if self._process is None:
            raise TritonError("Triton is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def stub_pids(self) -> list[int]:
        """The living stubs; each holds one model instance."""
        return [pid for pid in self._find_stubs() if is_alive(pid)]

    def memory(self, model: str) -> ModelMemory | None:
        return model_memory(model, self._read_log(), [self.pid, *self.stub_pids])

    def stub_died(self) -> bool:
        """Whether a stub died under its server. Triton does not notice: it reports ready and returns errors forever.

        A stub whose model was unloaded or replaced does not count: Triton reaps it, so it is not a zombie for long.
        """
        if time.monotonic() >= self._next_search or not all(map(is_alive, self._stubs)):
            self._stubs = self._find_stubs()
            self._next_search = time.monotonic() + STUB_SEARCH_INTERVAL
        zombies = [pid for pid in self._stubs if is_zombie(pid)]
        if zombies:
            time.sleep(0.5)  # in which Triton reaps a stub that it has just ended itself
        return any(map(is_zombie, zombies))

    def start(self) -> None:
        """Returns at once; see `wait_ready`. Raises TritonError if it cannot be started at all."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        lay_out_backends(self._backend_directory)
        self._check_stub(self._backend_directory / "python" / STUB_NAME)
        if self._models is None:
            self._view.start()
        first = self._process is None
        with self.log.open("wb" if first else "ab") as log:
            self._log_start = log.tell()
            self._process = GuardedProcess(self._command(), env=self._env, output=log, grace=4.0, shm_prefix=self.shm_prefix)

    def wait_ready(self, timeout: float, needed: str | None = None) -> None:
        """Returns when every model is loaded. Raises TritonError with the log's end on failure or after ``timeout`` seconds.

        Triton opens its gRPC port only after trying to load all models, and exits if one of ``models`` cannot be loaded. If it
        serves the whole repository, only a failure of ``needed`` is an error; the others are in `refusals`.
        """
        deadline = time.monotonic() + timeout
        while not self._accepts_connections():
            if not self.running:
                raise TritonError(f"Triton ended with status {self._process and self._process.exit_status}. {self._failure()}")
            if time.monotonic() > deadline:
                self.stop()
                raise TritonError(f"Triton was not ready after {timeout:.0f} seconds. {self._failure()}")
            time.sleep(0.05)
        if needed and f"successfully loaded '{needed}'" not in self._read_log():
            self.stop()
            raise TritonError(self._failure(needed))

    def stop(self) -> None:
        """Returns when the server, its stubs and their files in /dev/shm are gone."""
        if self._process is not None:
            self._process.stop()
            self._view.stop()
            shutil.rmtree(self._backend_directory, ignore_errors=True)

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_end(self, lines: int = 20) -> str:
        """The end of this run's log: warnings, errors and what a backend printed."""
        output = [line for line in self._read_log().splitlines() if not UNTELLING.match(line)]
        return "\n".join(f"  {line}" for line in output[-lines:])

    def refusals(self) -> dict[str, str]:
        """The models that could not be loaded in this run, with the reasons, in the backend's own words if it gave any."""
        return {name: sentence(reason) for name, reason in REFUSED.findall(self._read_log())}

    def _failure(self, name: str | None = None) -> str:
        """Why ``name`` (default: any model) was refused; if the log does not say, the end of the log."""
        refusals = self.refusals()
        if name in refusals or (name is None and refusals):
            return f"The model was refused: {refusals[name] if name else next(iter(refusals.values()))}"
        return f"The end of {self.log}:\n{self.log_end()}"

    def _read_log(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _find_stubs(self) -> list[int]:
        return [pid for pid, name in children(self.pid).items() if name == STUB_NAME[:15]]

    def _command(self) -> list[str]:
        return [
            str(_wheel() / "bin" / "tritonserver"),
            f"--backend-directory={self._backend_directory}",
            *self._model_control(),
            "--disable-auto-complete-config",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._port}",
            "--allow-metrics=false",
            "--exit-timeout-secs=2",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
        ]

    def _model_control(self) -> list[str]:
        if self._models is not None:
            repository = f"--model-repository={self._model_repository}"
            loaded = [f"--load-model={model}" for model in self._models]
            return [repository, "--model-control-mode=explicit", *loaded, "--allow-http=false"]
        return [
            f"--model-repository={self._view.directory}",
            "--model-control-mode=poll",
            f"--repository-poll-secs={POLL_INTERVAL}",
            "--exit-on-error=false",  # a broken model must not stop the others
            "--model-load-thread-count=1",  # one at a time: each takes half of the free memory (resources.py)
            "--http-address=127.0.0.1",  # only for the view
            f"--http-port={self._view.port}",
        ]

    def _check_stub(self, stub: Path) -> None:
        """Raises TritonError if the stub lacks a shared library: the server would wait for it forever."""
        tried = subprocess.run([stub], env=self._env, capture_output=True, text=True, timeout=30)
        if tried.returncode == 127:
            raise TritonError(f"Triton's Python stub cannot start: {tried.stderr.strip()}")

    def _accepts_connections(self) -> bool:
        with socket.socket() as connection:
            connection.settimeout(1)
            return connection.connect_ex(("127.0.0.1", self._port)) == 0 and self.running


def lay_out_backends(directory: Path) -> None:
    """Creates Triton's backend directory: its Python backend and all of ours. Safe to repeat."""
    wheel = _wheel()
    python = directory / "python"
    python.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Real files, not links: Triton refuses a linked library because it "escapes the backend directory", and a linked stub would
    # find the libpython that the wheel ships for 3.13, which lacks the modules of this machine's Python.
    for file in (
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        f"python_backend_stubs/{version}/{STUB_NAME}",
    ):
        copy = python / "new"
        shutil.copy(wheel / file, copy)
        copy.replace(python / Path(file).name)  # never overwritten in place: a dying Triton may still be running the old file
    _lay_out_libraries(directory / LIBRARIES, wheel.parent.parent / "nvidia_pytriton.libs")
    for backend in BACKENDS.iterdir():
        if (backend / "model.py").exists():
            _link(directory / backend.name, backend)


def _lay_out_libraries(directory: Path, brought: Path) -> None:
    """Links what the stub copy needs, under the wheel's names: CUDA's libraries from the wheel, this machine's libpython."""
    directory.mkdir(exist_ok=True)
    for library in brought.glob("libcudart-*"):
        _link(directory / library.name, library)
    if own := libpython_directory():
        minor = sys.version_info.minor
        for library in brought.glob(f"libpython3-*.{minor}.so.1.0"):
            _link(directory / library.name, Path(own) / f"libpython3.{minor}.so.1.0")


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _wheel() -> Path:
    """The wheel's Triton directory, found without importing pytriton."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonError("no Triton is installed here (the wheel nvidia-pytriton); in a clone, `make setup` installs it")
    return Path(spec.origin).parent / "tritonserver"


def _environment(stub_libraries: Path, additions: Mapping[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("MY_API_KEY", None)  # Triton does not need it
    # The stub embeds Python: it uses the packages of the first python3 on PATH, and looks for libpython itself.
    environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment.get('PATH', os.defpath)}"
    libraries = [str(stub_libraries), libpython_directory(), environment.get("LD_LIBRARY_PATH")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    return environment | dict(additions)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
