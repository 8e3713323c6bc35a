"""Servers that are driven through HTTP: ours (a real Triton, a real gateway) and the peers'. All know `/v1/completions`."""

import json
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environments import RUN, THREADS, TRANSFORMERS, PeerError
from bench.lineup import LLAMA_BINARIES, huggingface, q8_0
from testing import ROOT, server
from testing.gateway import Gateway
from testing.server import PORT, StartFailed
from testing.triton import Triton

KEY = "benchmark"
SLOTS = 32  # sequences at once, for every server that has such a number
CONTEXT = 2048  # tokens of each


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

    def body(self, prompt: str | list[int], tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0} | dict(self.extra)


@contextmanager
def gateways(model: Path, *settings: Mapping[str, Any], slots: int = SLOTS, **env: Any) -> Iterator[list[Server]]:
    """A real Triton with one model, and before it a real gateway with each of the ``settings``. ``env`` reaches the backend."""
    RUN.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        triton = stack.enter_context(Triton(model.parent, run_dir, [model.name], slots=slots, **env))
        running = []
        for number, one in enumerate(settings):
            log = RUN / f"gateway-{number}.log"
            gateway = stack.enter_context(Gateway(triton.grpc_address, log, MY_API_KEY=KEY, **one))
            given = f"Triton and gateway, {slots} slots, {settings_of(one)}"
            parts = {"gateway": gateway.pid, "stub": triton.stub_pids[0], "tritonserver": triton.pid}
            extra = {"model": model.name, "ignore_eos": True}
            running.append(Server("Tidegate", gateway.url, given, gateway.pid, extra, parts))
        yield running


def settings_of(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def add_gateway_option(parser: ArgumentParser) -> None:
    """`--gateway SPECULATION=off --gateway`: one with each of these settings, on one Triton, asked in turn."""

    def parsed(text: str) -> dict[str, str]:
        return dict(one.split("=", 1) for one in text.split(",") if one)

    meaning = "a gateway with these settings; several times: asked in turn (empty: defaults)"
    parser.add_argument("--gateway", type=parsed, action="append", metavar="NAME=VALUE,…", help=meaning)


@contextmanager
def _peer(
    name: str, command: Sequence[str | Path], given: str, extra: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """PeerError where it does not answer /health in time."""
    process = server.Server(command, RUN / f"{name.split()[0]}-server.log", grace=20, env=env)
    try:
        process.start()
    except StartFailed as error:
        raise PeerError(" / ".join(str(error).split("\n")[-3:])) from error
    try:
        yield Server(name, process.url, given, process.pid, extra)
    finally:
        process.stop()


def llama_cpp() -> AbstractContextManager[Server]:
    return llama_server("Q8_0", q8_0(), SLOTS, CONTEXT // 2)


def llama_server(weights: str, model: Path, slots: int, context: int) -> AbstractContextManager[Server]:
    """``context``: tokens of each slot."""
    command: list[str | Path] = [LLAMA_BINARIES / "llama-server", "--model", model, "--no-ui", "--port", PORT]
    command += ["-np", str(slots), "-c", str(slots * context), "-t", str(THREADS)]
    given = f"llama-server, {weights}, {slots} parallel slots, continuous batching, {THREADS} threads"
    return _peer(f"llama.cpp {weights}", command, given, {"ignore_eos": True, "cache_prompt": False})


def transformers_serve() -> AbstractContextManager[Server]:
    model = huggingface()
    program = TRANSFORMERS.directory / "bin" / "transformers"
    command: list[str | Path] = [program, "serve", model, "--device", "cpu", "--dtype", "float32", "--continuous-batching"]
    env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
    config = json.dumps({"do_sample": False, "eos_token_id": -1})
    given = f"transformers serve, float32, continuous batching, {THREADS} threads"
    extra = {"model": str(model), "generation_config": config}
    return _peer("transformers serve", [*command, "--port", PORT], given, extra, env)


def flask_loop() -> AbstractContextManager[Server]:
    command: list[str | Path] = [TRANSFORMERS.python, "-m", "bench.engines.flask_loop", huggingface(), str(THREADS), PORT]
    return _peer("Flask loop", command, f"Flask, torch float32, {THREADS} threads, no cache", {}, {"PYTHONPATH": str(ROOT)})
