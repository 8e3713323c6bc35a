"""The peers' environments: `.run/bench/<peer>`, from `bench/peers/<peer>.txt`, nothing but what stands there. Safe to repeat.

The files pin whole closures with hashes; `bench/peers/lock` makes them. torch is missing in them, as in requirements/torch.in:
which build of it a machine gets is that machine's matter. llama.cpp comes as source and is compiled for this machine.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run" / "bench"
REQUIREMENTS = ROOT / "bench" / "peers"
TORCH = ROOT / "requirements" / "torch.in"
THREADS = len(os.sched_getaffinity(0))
LLAMA_TARGETS = ("llama-server", "llama-batched-bench")
# What is not asked for compiles for minutes; the page that its server brings along would be downloaded.
LLAMA_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}
# Runs a module of another environment's packages: those of this one come first.
BESIDE = """import runpy, sys
packages, module = sys.argv[1:3]
sys.path.append(packages)
sys.argv[1:3] = []
runpy.run_module(module, run_name="__main__", alter_sys=True)"""


class PeerError(Exception):
    """A peer cannot be installed, converted for, started or asked. The message is its own, or the end of it."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of this Python, with exactly what its requirement file pins."""

    name: str
    torch: bool = False
    finish: Callable[["Environment"], None] | None = None  # what is to do besides pip

    @property
    def directory(self) -> Path:
        return RUN / self.name

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.directory / "lib").glob("python3*/site-packages"))

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    @property
    def is_installed(self) -> bool:
        stamp = self.directory / "installed"
        return stamp.exists() and stamp.read_text() == self._identity()

    def install(self) -> bool:
        """False where it is there already. PeerError where it cannot be made."""
        if self.is_installed:
            return False
        stamp = self.directory / "installed"
        if not self.python.exists():
            venv.create(self.directory, with_pip=True)
        stamp.unlink(missing_ok=True)
        self.pip("install", "--require-hashes", "-r", str(self.requirements))
        if self.torch:
            self.pip("install", "-r", str(TORCH))
        if self.finish:
            self.finish(self)
        stamp.write_text(self._identity())
        return True

    def pip(self, *arguments: str) -> None:
        run([str(self.python), "-m", "pip", *arguments[:1], "-q", "--no-deps", *arguments[1:]], f"pip {arguments[0]}")

    def _identity(self) -> str:
        files = [self.requirements.read_bytes()] + [TORCH.read_bytes()] * self.torch
        files.append(repr((sys.version, LLAMA_OPTIONS, LLAMA_TARGETS) if self.finish else sys.version).encode())
        return hashlib.sha256(b"\0".join(files)).hexdigest()


def run(command: Sequence[str], what: str, env: dict[str, str] | None = None) -> None:
    """PeerError with the end of what it said where it fails. All of it goes to `.run/bench/log`."""
    done = subprocess.run(command, env=os.environ | (env or {}), capture_output=True, text=True)
    with (RUN / "log").open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and "WARNING" not in line]
        raise PeerError(f"{what} ended with status {done.returncode}: {' / '.join(output[-3:])[-500:]}")


def compile_llama(environment: Environment) -> None:
    """With cmake and ninja of its environment, and this machine's compiler."""
    if not shutil.which("c++"):
        raise PeerError("llama.cpp is compiled here, and there is no C++ compiler (c++) on PATH")
    sources, build = environment.directory / "source", environment.directory / "build"
    for old in (sources, build):
        shutil.rmtree(old, ignore_errors=True)
    pinned = REQUIREMENTS / "llama.cpp.source.txt"
    # pip asks a source archive for its metadata, with the build tools that are installed here
    environment.pip(
        "download", "--no-build-isolation", "--no-binary=:all:", "--require-hashes", "-r", str(pinned), "-d", str(sources)
    )
    with tarfile.open(next(sources.glob("*.tar.gz"))) as archive:
        archive.extractall(sources, filter="data")
    source = next(sources.glob("*/llama.cpp"))
    tools = {"PATH": f"{environment.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    options = [f"-D{name}={value}" for name, value in LLAMA_OPTIONS.items()]
    run(["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *options], "cmake", env=tools)
    run(["ninja", "-C", str(build), *LLAMA_TARGETS], "the compiler", env=tools)
    shutil.rmtree(sources)


LLAMA_CPP = Environment("llama.cpp", finish=compile_llama)
ONNXRUNTIME_GENAI = Environment("onnxruntime-genai")
OPENVINO_GENAI = Environment("openvino-genai")
CTRANSLATE2 = Environment("ctranslate2")
TRANSFORMERS = Environment("transformers", torch=True)
ALL = (CTRANSLATE2, LLAMA_CPP, ONNXRUNTIME_GENAI, OPENVINO_GENAI, TRANSFORMERS)


def convert(peer: Environment, directory: Path, module: str, *arguments: str) -> Path:
    """Runs a peer's converter, which writes ``directory``, once. It needs torch and transformers beside the peer itself."""
    if directory.exists():
        return directory
    unfinished = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    given = [argument.replace("OUTPUT", str(unfinished)) for argument in arguments]
    command = [str(TRANSFORMERS.python), "-c", BESIDE, str(peer.packages), module, *given]
    run(command, f"{peer.name}'s converter", env={"HF_HUB_OFFLINE": "1"})
    unfinished.rename(directory)
    return directory
