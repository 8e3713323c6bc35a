"""A real Triton on this machine: the `tritonserver` of the PyPI wheel `nvidia-pytriton`, with our backend beside its own.

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
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.machine import libpython_directory
from serve.processes import GuardedProcess, children, is_alive, is_zombie

BACKENDS = Path(__file__).resolve().parent.parent / "backends"
STUB_NAME = "triton_python_backend_stub"
# Lines of its log that explain no failure: empty ones, tables, information, and the absence of a GPU.
UNTELLING = re.compile(r"\s*$|[+|]|I\d{4} |.*(pinned_memory_manager|CudaDriverHelper)")


class TritonError(Exception):
    """Triton did not start or stopped. The message says why, as far as its log tells."""


class TritonServer:
    """One `tritonserver` process on a free port of 127.0.0.1, gRPC only, loading ``models`` (None: all) and nothing else.

    ``env`` is added to the environment of the server and so of our backend. ``run_dir`` receives the backend directory and
    `triton.log`; two servers must not share one. The port stays the same when the server is started again.
    """

    def __init__(
        self, model_repository: Path, run_dir: Path, models: Sequence[str] | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._model_repository = model_repository.resolve()
        self._run_dir = run_dir.resolve()
        self._backend_directory = self._run_dir / "backends"
        self._models = ["*"] if models is None else list(models)
        self._env = _environment(env or {})
        self._port = free_port()
        self._process: GuardedProcess | None = None
        self._stubs: list[int] = []  # as last seen, dead ones too
        self._log_start = 0  # where in the log the present run begins
        self.log = self._run_dir / "triton.log"
        self.shm_prefix = f"tidegate_{os.getpid()}_{self._port}_"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the `tritonserver` process. TritonError where it was never started."""
        if self._process is None:
            raise TritonError("Triton is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def stub_pids(self) -> list[int]:
        """The living stubs, each of which holds one model instance."""
        return [pid for pid in self._find_stubs() if is_alive(pid)]

    def stub_died(self) -> bool:
        """Whether a stub died under its server. Triton does not notice, says that it is ready and answers errors for ever.

        A stub of a model that was unloaded is no dead one: Triton waits for its end, so it leaves no zombie.
        """
        if not all(map(is_alive, self._stubs)):
            time.sleep(0.2)  # for Triton to wait for a stub that it has just ended itself
            self._stubs = self._find_stubs()
        return any(map(is_zombie, self._stubs))

    def start(self) -> None:
        """Returns at once; see `wait_ready`. TritonError where it cannot be started at all."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        lay_out_backends(self._backend_directory)
        self._check_stub(self._backend_directory / "python" / STUB_NAME)
        first = self._process is None
        with self.log.open("wb" if first else "ab") as log:
            self._log_start = log.tell()
            self._process = GuardedProcess(self._command(), env=self._env, output=log, grace=4.0, shm_prefix=self.shm_prefix)

    def wait_ready(self, timeout: float) -> None:
        """Returns when every model is loaded; TritonError with the log's end when that fails or takes ``timeout`` seconds.

        Triton opens its gRPC port only after all models are loaded, and exits where one cannot be.
        """
        deadline = time.monotonic() + timeout
        while not self._accepts_connections():
            if not self.running:
                raise TritonError(f"Triton ended with status {self._process and self._process.exit_status}. {self._failure()}")
            if time.monotonic() > deadline:
                self.stop()
                raise TritonError(f"Triton was not ready after {timeout:.0f} seconds. {self._failure()}")
            time.sleep(0.05)
        self._stubs = self._find_stubs()

    def stop(self) -> None:
        """Returns when the server, its stubs and their files in /dev/shm are gone."""
        if self._process is not None:
            self._process.stop()
            shutil.rmtree(self._backend_directory, ignore_errors=True)

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_end(self, lines: int = 20) -> str:
        """The end of this run's log: warnings, errors and what a backend printed."""
        told = [line for line in self._read_log().splitlines() if not UNTELLING.match(line)]
        return "\n".join(f"  {line}" for line in told[-lines:])

    def _failure(self) -> str:
        """The backend's own sentence where it has refused a model; else the log's end."""
        refusal = re.search(r"TritonModelException: (.*?)\s*(?:\\n|\n)\s*(?:\\n|\n)At:", self._read_log(), re.DOTALL)
        return f"The model was refused: {refusal[1]}" if refusal else f"The end of {self.log}:\n{self.log_end()}"

    def _read_log(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _find_stubs(self) -> list[int]:
        return [pid for pid, name in children(self.pid).items() if name == STUB_NAME[:15]]

    def _command(self) -> list[str]:
        return [
            str(_wheel() / "bin" / "tritonserver"),
            f"--model-repository={self._model_repository}",
            f"--backend-directory={self._backend_directory}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self._models),
            "--disable-auto-complete-config",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._port}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--exit-timeout-secs=2",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
        ]

    def _check_stub(self, stub: Path) -> None:
        """TritonError where a shared library is missing to the stub: the server would wait for it for ever."""
        tried = subprocess.run([stub], env=self._env, capture_output=True, text=True, timeout=30)
        if tried.returncode == 127:
            raise TritonError(f"Triton's Python stub cannot start: {tried.stderr.strip()}")

    def _accepts_connections(self) -> bool:
        with socket.socket() as connection:
            connection.settimeout(1)
            return connection.connect_ex(("127.0.0.1", self._port)) == 0 and self.running


def lay_out_backends(directory: Path) -> None:
    """Makes Triton's backend directory: its Python backend and every backend of ours. Safe to repeat."""
    wheel = _wheel()
    python = directory / "python"
    python.mkdir(parents=True, exist_ok=True)
    # The library must be a real file: Triton refuses one that "escapes the backend directory" by a link.
    for file in ("libtriton_python.so", "triton_python_backend_utils.py"):
        copy = python / f"{file}.new"
        shutil.copy(wheel / "backends" / "python" / file, copy)
        copy.replace(python / file)  # never written to: a dying Triton may still run what lies there
    # The stub must be a link: it finds its libraries relative to where it really lies.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    _link(python / STUB_NAME, wheel / "python_backend_stubs" / version / STUB_NAME)
    for backend in BACKENDS.iterdir():
        if (backend / "model.py").exists():
            _link(directory / backend.name, backend)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _wheel() -> Path:
    """Where the wheel keeps Triton, found without importing pytriton."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonError("no Triton is installed here: `make setup` installs it (the wheel nvidia-pytriton)")
    return Path(spec.origin).parent / "tritonserver"


def _environment(additions: Mapping[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("MY_API_KEY", None)  # no business of Triton's
    # The stub embeds Python: it takes the packages of the first python3 in PATH, and looks for libpython by itself.
    environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment.get('PATH', os.defpath)}"
    libraries = [libpython_directory(), environment.get("LD_LIBRARY_PATH")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    return environment | dict(additions)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
