"""A Docker engine of the tests' own, in which the shipped files run as they are.

No image can be pulled where the tests run. So the images that the Dockerfiles are built on have stand-ins of the same names,
made from Debian: one with Python, one with the real `tritonserver` of the wheel nvidia-pytriton where NVIDIA's image has it.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import one_process_at_a_time
from tests.own_mounts import in_own_mounts

ROOT = Path(__file__).resolve().parent.parent.parent
GPU_FILES = ("docker-compose.yml",)
CPU_FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
KEY = "something-secret"  # as the documents say it
CACHE = ROOT / ".run" / "tests" / "deploy"  # the stand-in's Debian is kept between runs
SUITE = "trixie"
PYTHON_IMAGE = f"python:3.13-slim-{SUITE}"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.10-py3"
PACKAGES = "python3,python3-pip,libpython3.13,ca-certificates"  # Triton's stub embeds libpython
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = Path("/usr/local/share/ca-certificates")  # of this machine's own authorities
TRITON_DOCKERFILE = f"""\
FROM {PYTHON_IMAGE}
COPY tritonserver /opt/tritonserver
COPY nvidia_pytriton.libs /opt/tritonserver/lib
COPY tritonserver/python_backend_stubs/3.13/triton_python_backend_stub /opt/tritonserver/backends/python/
ENV PATH=/opt/tritonserver/bin:{PATH} LD_LIBRARY_PATH=/opt/tritonserver/lib
"""


class Engine:
    """`dockerd` with everything it has in ``directory``. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "docker.sock"
        plugins = directory / "config" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(program("docker-compose"))
        self.environment = plain_environment() | {
            "DOCKER_HOST": f"unix://{self._socket}",
            "DOCKER_CONFIG": str(directory / "config"),
            "DOCKER_BUILDKIT": "1",
            # Debian's docker first: a newer one beside it would want its buildx.
            "PATH": f"/usr/sbin:/usr/bin:{os.environ['PATH']}",
        }

    def __enter__(self) -> "Engine":
        options = {"data-root": "docker", "exec-root": "exec", "pidfile": "dockerd.pid"}
        command = ["dockerd", f"--host=unix://{self._socket}", "--storage-driver=overlay2", "--bridge=none"]
        command += [f"--{option}={self._directory / name}" for option, name in options.items()]
        command += ["--iptables=false", "--ip6tables=false", "--ip-forward=false"]  # it changes nothing of this machine
        if not any(Path("/sys").iterdir()):  # a chroot
            command = in_own_mounts(self._directory / "root", *command)
        environment = self.environment | {"PATH": f"{self._gpu_hook()}:{self.environment['PATH']}"}
        with (self._directory / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for container in self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", container)
        self._stop()

    def docker(self, *arguments: str | Path, timeout: float = 300, settings: Mapping[str, str] | None = None) -> str:
        """What `docker ARGUMENTS` prints. AssertionError with all of that where it fails."""
        command = ["docker", *map(str, arguments)]
        done = self.run(command, timeout, settings)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(
        self, command: list[str], timeout: float = 300, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """In the root of the checkout, with this engine as the default one; ``settings``: more environment variables."""
        env = self.environment | dict(settings or {})
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)

    def inspect(self, name: str) -> dict[str, Any]:
        """Of a container, an image, …"""
        (found,) = json.loads(self.docker("inspect", name))
        assert isinstance(found, dict)
        return found

    def build(self, image: str, build: Mapping[str, Any]) -> None:
        """``build``: as `docker compose config` tells it, so that what is built is what the compose file says."""
        options = [f"--build-arg={name}={value}" for name, value in build.get("args", {}).items()]
        options += [f"--target={build['target']}"] if "target" in build else []
        options += [f"--file={Path(build['context']) / build['dockerfile']}", f"--tag={image}"]
        # Containers of this engine reach nothing; only the host's network leads to the package index.
        self.docker("build", "--network=host", *options, build["context"], timeout=900)

    def make_stand_ins(self) -> None:
        """Under the names that stand in the Dockerfiles."""
        self.docker("import", f"--change=ENV PATH={PATH}", debian(), PYTHON_IMAGE)
        with tempfile.TemporaryDirectory(dir=self._directory) as folder:
            pytriton = importlib.util.find_spec("pytriton")
            assert pytriton is not None and pytriton.origin is not None, "requirements/serve.lock is not installed"
            wheel, context = Path(pytriton.origin).parent / "tritonserver", Path(folder)
            shutil.copytree(wheel, context / "tritonserver", symlinks=True)
            shutil.copytree(wheel.parent.parent / "nvidia_pytriton.libs", context / "nvidia_pytriton.libs")
            # The wheel brings a libpython3.13 that does not fit Debian's modules; NVIDIA's image uses that of its system too.
            for library in (context / "nvidia_pytriton.libs").glob("libpython*.13.so.1.0"):
                library.unlink()
                library.symlink_to("/usr/lib/x86_64-linux-gnu/libpython3.13.so.1.0")
            (context / "Dockerfile").write_text(TRITON_DOCKERFILE)
            self.docker("build", f"--tag={TRITON_IMAGE}", context)

    def _gpu_hook(self) -> Path:
        """Lets the engine take a reservation of a GPU; the hook of NVIDIA's toolkit would put one into the container."""
        directory = self._directory / "hook"
        directory.mkdir()
        hook = directory / "nvidia-container-runtime-hook"
        hook.write_text("#!/bin/sh\n")
        hook.chmod(0o755)
        return directory

    def _wait_ready(self) -> None:
        for _ in range(300):
            if self._process.poll() is not None:
                break
            if self._socket.exists() and self.run(["docker", "info"]).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"dockerd does not start:\n{(self._directory / 'dockerd.log').read_text()[-3000:]}")

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its containerd is of its group
            self._process.wait()


def plain_environment() -> dict[str, str]:
    """Without the settings of the compose files, which a developer may have exported."""
    files = "".join((ROOT / file).read_text() for file in CPU_FILES)
    return {name: value for name, value in os.environ.items() if f"${{{name}:" not in files}


def configuration(*files: str, **environment: str) -> dict[str, Any]:
    """What the compose files mean."""
    command = [program("docker-compose"), *(f"--file={file}" for file in files), "--profile=*", "config", "--format=json"]
    env = plain_environment() | {"MY_API_KEY": KEY} | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def program(name: str) -> str:
    """Where a program lies that a wheel has brought, or this machine has. AssertionError where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert found, f"there is no {name} here"
    return found


def debian() -> Path:
    """A tar file of Debian with Python, and with what this machine needs to reach a package index."""
    pip = "\n".join(["[global]", *pip_options(), ""])
    CACHE.mkdir(parents=True, exist_ok=True)
    configuration = CACHE / "pip.conf"
    root = CACHE / f"{SUITE}.tar"
    with one_process_at_a_time("debian"):
        if not root.exists() or not configuration.exists() or configuration.read_text() != pip:
            configuration.write_text(pip)
            _bootstrap(root, configuration)
    return root


def _bootstrap(root: Path, pip_configuration: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
    command += [f"--customize-hook=copy-in {pip_configuration} /etc"]
    if authorities := [str(path) for path in CERTIFICATES.glob("*.crt")]:
        command += [f"--customize-hook=copy-in {' '.join(authorities)} {CERTIFICATES}"]
    command += ['--customize-hook=chroot "$1" update-ca-certificates']
    part = root.with_suffix(".part.tar")
    done = subprocess.run([*command, SUITE, str(part)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    part.rename(root)


def pip_options() -> list[str]:
    """From which index this machine installs, as lines of a pip.conf."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    options = {"cert": "/etc/ssl/certs/ca-certificates.crt"}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        value = value.strip("'")
        if not value.startswith("/") and "file:" not in value:  # a path of this machine leads nowhere there
            options[name.rpartition(".")[2]] = value
    return [f"{name} = {value}" for name, value in options.items()]
