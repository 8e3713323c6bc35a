"""Servers that are driven through HTTP: ours (a real Triton, a real gateway) and the peers'. All know `/v1/completions`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from bench.environments import ROOT, RUN, THREADS, TRANSFORMERS, PeerError
from bench.lineup import LLAMA_BINARIES, huggingface, q8_0
from serve.triton_server import TritonServer, free_port

KEY = "benchmark"
SLOTS = 32  # texts at once, for every server that has such a number
CONTEXT = 2048  # tokens of each
START_TIMEOUT = 180.0  # seconds


@dataclass(frozen=True)
class Server:
    """A running server. ``extra`` are the fields that it needs besides OpenAI's, to be greedy and not to stop early.
    ``parts``: the process ids of what it consists of."""

    name: str
    address: str
    given: str
    pid: int
    extra: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0} | dict(self.extra)


@contextmanager
def gateways(model: Path, *settings: Mapping[str, str]) -> Iterator[list[str]]:
    """A real Triton with one model, and before it a real gateway with each of the ``settings``; yields their addresses."""
    with gateway_servers(model, *settings) as servers:
        yield [server.address for server in servers]


@contextmanager
def gateway_servers(model: Path, *settings: Mapping[str, str], slots: int = SLOTS) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"TIDEGATE_SLOTS": str(slots)}
        triton = stack.enter_context(TritonServer(model.parent, Path(run_dir), [model.name], env))
        triton.wait_ready(START_TIMEOUT)
        yield [stack.enter_context(_gateway(model.name, triton, one, slots)) for one in settings]


@contextmanager
def _gateway(model: str, triton: TritonServer, settings: Mapping[str, str], slots: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "gateway"]
    env = {"TRITON_URL": triton.grpc_address, "MY_API_KEY": KEY, "HOST": "127.0.0.1"} | dict(settings)
    told = ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
    extra = {"model": model, "ignore_eos": True}
    with _process("Tidegate", command, f"Triton and gateway, {slots} slots, {told}", extra, env) as server:
        yield replace(server, parts={"gateway": server.pid, "stub": triton.stub_pids[0], "tritonserver": triton.pid})


@contextmanager
def _process(
    name: str, command: Sequence[str | Path], given: str, extra: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """``command`` with a free port; PeerError where it does not answer /health in time."""
    port = free_port()
    with (RUN / f"{name.split()[0]}-server.log").open("w") as log:
        words = [str(word) for word in command]
        if words[-1] != "gateway":  # which takes it from PORT
            words += [str(port)] if "flask_loop.py" in words[1] else ["--port", str(port)]
        process = subprocess.Popen(
            words, env=os.environ | {"PORT": str(port)} | dict(env or {}), stdout=log, stderr=log, cwd=ROOT
        )
        try:
            wait_healthy(f"http://127.0.0.1:{port}", process, Path(log.name))
            yield Server(name, f"http://127.0.0.1:{port}", given, process.pid, extra)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_healthy(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    told = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-2:]
    raise PeerError(f"its server did not become healthy: {' / '.join(told)[-400:]}")


def llama_cpp() -> AbstractContextManager[Server]:
    return llama_server("Q8_0", q8_0(), SLOTS, CONTEXT // 2)


def llama_server(weights: str, model: Path, slots: int, context: int) -> AbstractContextManager[Server]:
    """``context``: tokens of each slot."""
    command: list[str | Path] = [LLAMA_BINARIES / "llama-server", "--model", model, "--no-ui"]
    command += ["-np", str(slots), "-c", str(slots * context), "-t", str(THREADS)]
    given = f"llama-server, {weights}, {slots} parallel slots, continuous batching, {THREADS} threads"
    return _process(f"llama.cpp {weights}", command, given, {"ignore_eos": True, "cache_prompt": False})


def transformers_serve() -> AbstractContextManager[Server]:
    model = huggingface()
    program = TRANSFORMERS.directory / "bin" / "transformers"
    command: list[str | Path] = [program, "serve", model, "--device", "cpu", "--dtype", "float32", "--continuous-batching"]
    env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
    config = json.dumps({"do_sample": False, "eos_token_id": -1})
    given = f"transformers serve, float32, continuous batching, {THREADS} threads"
    return _process("transformers serve", command, given, {"model": str(model), "generation_config": config}, env)


def flask_loop() -> AbstractContextManager[Server]:
    model = huggingface()
    command: list[str | Path] = [TRANSFORMERS.python, "-m", "bench.engines.flask_loop", model, str(THREADS)]
    return _process("Flask loop", command, f"Flask, torch float32, {THREADS} threads, no cache", {})
