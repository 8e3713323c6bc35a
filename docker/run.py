"""Triton in its container: `python run.py [option of tritonserver]…`. Exits when Triton has become useless.

A Triton whose model process died, whose GPU failed or which hangs keeps reporting that it is ready, and Docker does not restart
unhealthy containers. So this process runs a real step of every model every few seconds. If they fail it exits, the container
ends, and its restart policy starts it again. Meanwhile the gateways hold all requests.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import NoReturn

from step import HTTP_PORT, StepFailed, step_all

from serve.processes import GuardedProcess
from serve.repository_view import RepositoryView

MODELS = Path("/models")
SHOWN = Path("/tmp/models")  # without versions that Triton could not load
SHARED_MEMORY = Path("/dev/shm")
NEEDED_SHARED_MEMORY = 64 * 2**20  # bytes: Triton and its model processes exchange data there
START_TIMEOUT = 600.0  # seconds until a model is loaded: weights may come from a slow disk
WATCH_INTERVAL = 2.0  # seconds between steps
MOST_FAILURES = 3  # consecutive
DEAD = "is not healthy"  # Triton's words for a model process that has died and will never respond again
SHM_PREFIX = "tidegate_"
COMMAND = [
    "tritonserver",
    f"--model-repository={SHOWN}",
    "--model-control-mode=poll",
    "--repository-poll-secs=2",
    "--exit-on-error=false",  # a broken model must not stop the others
    "--model-load-thread-count=1",  # one at a time: each takes half of the free memory
    "--disable-auto-complete-config",
    "--grpc-address=0.0.0.0",
    "--grpc-port=8001",
    "--http-address=127.0.0.1",  # only for this process and its health checks
    f"--http-port={HTTP_PORT}",
    "--metrics-address=0.0.0.0",
    "--metrics-port=8002",
    "--exit-timeout-secs=5",
    f"--backend-config=python,shm-region-prefix-name={SHM_PREFIX}",
]


class Stopped(BaseException):
    """The container was asked to stop."""


def stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def main(options: list[str]) -> None:
    signal.signal(signal.SIGTERM, stop)
    try:
        if problems := list(missing()):
            sys.exit("\n".join(f"triton: {problem}" for problem in problems))
        with (
            RepositoryView(MODELS, SHOWN, HTTP_PORT, lambda sentence: print(f"triton: {sentence}", flush=True)),
            GuardedProcess([*COMMAND, *options], env=os.environ, grace=8.0, shm_prefix=SHM_PREFIX) as triton,
        ):
            reason = failure(triton)
            with suppress(ProcessLookupError):  # the reason may be that it has already ended
                os.kill(triton.pid, signal.SIGKILL)  # it has nothing left to finish
            sys.exit(f"triton: {reason}; this container ends, for its restart policy to start it again")
    except Stopped:
        pass


def failure(triton: GuardedProcess) -> str:
    """Returns the reason once Triton has become useless."""
    failures, served, deadline = 0, False, time.monotonic() + START_TIMEOUT
    while triton.running:
        try:
            served = bool(step_all()) or served
            failures = 0
        except StepFailed as error:
            failures += served
            if DEAD in str(error) or failures == MOST_FAILURES:
                return f"a model does not answer its steps any more: {error}"
        if not served and time.monotonic() > deadline:
            return f"no model answered within {START_TIMEOUT:.0f} seconds"
        time.sleep(WATCH_INTERVAL)
    return f"it ended with status {triton.exit_status}"


def missing() -> Iterator[str]:
    """What Triton needs but lacks; each is a sentence that says what to do."""
    status = os.statvfs(SHARED_MEMORY)
    if (free := status.f_bavail * status.f_frsize) < NEEDED_SHARED_MEMORY:
        way_out = "docker run --shm-size=1g, `shm_size: 1g` in a compose file, a memory emptyDir in Kubernetes"
        yield f"{SHARED_MEMORY} has {free >> 20} MiB, it needs {NEEDED_SHARED_MEMORY >> 20}: {way_out}"
    if not any(MODELS.glob("*/config.pbtxt")):
        yield f"{MODELS} holds no model: mount a repository there that the export has filled"
    if "onnxruntime-gpu" in {package.name for package in metadata.distributions()}:
        yield from missing_for_gpu()


def missing_for_gpu() -> Iterator[str]:
    runtime = importlib.util.find_spec("onnxruntime")
    assert runtime is not None and runtime.origin is not None
    provider = Path(runtime.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
    output = subprocess.run(["ldd", provider], capture_output=True, text=True).stdout
    lacks = {line.split()[0] for line in output.splitlines() if "not found" in line}
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg")]  # dxg: on Windows (WSL 2)
    if not devices or "libcuda.so.1" in lacks:
        way_out = "install NVIDIA's driver and container toolkit, or use the image for the CPU (docker-compose.cpu.yml)"
        yield f"this image computes on a GPU, and none is in this container: {way_out}"
    elif lacks:
        way_out = "build on a Triton image of the CUDA and cuDNN that requirements/triton-gpu.in names"
        yield f"this image lacks libraries that ONNX Runtime needs for the GPU ({', '.join(sorted(lacks))}): {way_out}"


if __name__ == "__main__":
    main(sys.argv[1:])
