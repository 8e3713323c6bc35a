"""The real thing: Tritons that are kept alive as `make serve` keeps its own, and gateways before them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from chaos.clients import KEY
from gateway.errors import TidegateError
from gateway.text.model import Model
from gateway.triton.client import TritonClient
from serve.processes import GuardedProcess
from serve.supervisor import HEALTH_INTERVAL, MOST_UNANSWERED, WATCH_INTERVAL
from serve.triton_server import TritonError, TritonServer, free_port

ROOT = Path(__file__).resolve().parent.parent
TINY = "tiny-gpt2"
START_TIMEOUT = 120.0  # seconds
PROBE_TIMEOUT = 3.0  # seconds: the machine is busy
GRACE = 60  # seconds that a gateway has to finish its texts


def tiny_repository(directory: Path = ROOT / ".run" / "chaos") -> Path:
    """A model repository with a tiny GPT-2 of random weights: its texts mean nothing, and it starts in a second."""
    checkpoint, repository = directory / "tiny-gpt2.pt", directory / "model_repository"
    directory.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        from tests.export.samples import build_nanogpt  # here: it needs torch

        build_nanogpt(checkpoint, block_size=1024)
    command = [sys.executable, "-m", "export", str(checkpoint), "--precision", "fp32", "--repository", str(repository)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return repository


class KeptTriton:
    """A Triton that is started again when it or its stub dies or hangs: as serve/supervisor.py does it, but without its bound
    on how often, and asking Triton itself, since a gateway with two of them is well when one hangs."""

    def __init__(self, repository: Path, run_dir: Path, model: str, slots: int) -> None:
        self.server = TritonServer(repository, run_dir, [model], {"TIDEGATE_SLOTS": str(slots)})
        self.model = model
        self.restarts: list[str] = []  # why each was needed, noted as it begins
        self.kept = False
        self._known: Model | None = None
        self._task: asyncio.Task[None] | None = None
        self._unanswered = 0  # questions in a row

    @property
    def address(self) -> str:
        return self.server.grpc_address

    async def start(self) -> None:
        await asyncio.to_thread(self._start)
        while not await self.answers():  # the first question takes long: a whole tokenizer is read
            await asyncio.sleep(0.1)
        self.kept = True
        self._task = asyncio.create_task(self._keep(), name=f"keeps Triton at {self.address}")

    async def stop(self) -> None:
        """As an operator does it, with SIGTERM; returns when it is gone."""
        self.kept = False
        try:
            if self._task is not None:
                await self._task
        finally:
            self._task = None
            await asyncio.to_thread(self.server.stop)

    async def answers(self) -> bool:
        """Whether its stub executes a request. Raises what has ended the keeper early: nothing should."""
        if self._task is not None and self._task.done():
            self._task.result()
        try:
            async with TritonClient(self.address, PROBE_TIMEOUT) as client, asyncio.timeout(PROBE_TIMEOUT):
                self._known = self._known or await client.describe(self.model)
                await client.fingerprint(self._known)
            return True
        except (TidegateError, TimeoutError):
            return False

    def _start(self) -> None:
        self.server.start()
        self.server.wait_ready(START_TIMEOUT)

    async def _keep(self) -> None:
        next_question = time.monotonic()
        while self.kept:
            await asyncio.sleep(WATCH_INTERVAL)
            if time.monotonic() >= next_question:
                self._unanswered = 0 if await self.answers() else self._unanswered + 1
                next_question = time.monotonic() + HEALTH_INTERVAL
            if self.kept and (failure := await asyncio.to_thread(self._failure)):
                self.restarts.append(failure)
                await asyncio.to_thread(self._restart)
                self._unanswered = 0

    def _failure(self) -> str | None:
        if not self.server.running:
            return "Triton died"
        if self.server.stub_died():
            return "its stub died"
        return "Triton hung" if self._unanswered >= MOST_UNANSWERED else None

    def _restart(self) -> None:
        self.server.stop()
        with suppress(TritonError):  # killed again while it started: the next look sees it
            self._start()


class Gateway:
    """`python -m gateway` on a port of its own, which stays the same."""

    def __init__(self, tritons: list[str], log: Path, module: str = "gateway", **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log, self._module = log, module
        settings = {"TRITON_URL": ",".join(tritons), "HOST": "127.0.0.1", "PORT": str(self.port), "MY_API_KEY": KEY}
        settings |= {"GRACE_PERIOD": str(GRACE), "DRAIN_DELAY": "1", "PYTHONPATH": str(ROOT)}
        self._environment = os.environ | settings | environment
        self._process: GuardedProcess | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when it is ready."""
        command = [sys.executable, "-m", self._module]
        with self._log.open("ab") as log:
            self._process = await asyncio.to_thread(
                lambda: GuardedProcess(command, env=self._environment, output=log, grace=GRACE + 10)
            )
        deadline = time.monotonic() + START_TIMEOUT
        async with httpx.AsyncClient(trust_env=False) as http:
            while not await self._ready(http):
                if not self._process.running or time.monotonic() > deadline:
                    raise RuntimeError(f"a gateway did not start: {self._log.read_text()[-2000:]}")
                await asyncio.sleep(0.1)

    async def drain(self) -> int:
        """SIGTERM; its exit status once it has ended by itself."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)
        status = await asyncio.to_thread(self._process.wait)
        await asyncio.to_thread(self._process.stop)
        return status

    async def stop(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    async def load(self) -> int:
        """Texts that run or wait there."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            models = (await http.get(f"{self.url}/health")).json()["data"]["models"].values()
            return sum(model["running"] + model["waiting"] for model in models)

    async def _ready(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"{self.url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False


class Stack:
    """``tritons`` run; ``spares`` may replace one of them, at an address that the gateways know already."""

    def __init__(self, tritons: list[KeptTriton], spares: list[KeptTriton], gateways: list[Gateway]) -> None:
        self.tritons, self.spares, self.gateways = tritons, spares, gateways

    async def is_whole(self) -> bool:
        return all(await asyncio.gather(*(triton.answers() for triton in self.tritons)))

    async def wait_whole(self, timeout: float = START_TIMEOUT) -> None:
        async with asyncio.timeout(timeout):
            while not await self.is_whole():
                await asyncio.sleep(0.1)

    async def wait_idle(self, timeout: float) -> int:
        """Texts that are left in all gateways after at most ``timeout`` seconds: 0 where every slot was freed."""
        deadline = time.monotonic() + timeout
        while (left := sum([await gateway.load() for gateway in self.gateways])) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return left


@asynccontextmanager
async def running_stack(
    repository: Path,
    run_dir: Path,
    *,
    tritons: int,
    spares: int,
    gateways: int,
    model: str = TINY,
    slots: int = 32,
    module: str = "gateway",
    **settings: str,
) -> AsyncIterator[Stack]:
    """Everything runs and answers; at the end nothing of it is left. ``module``, ``settings``: of the gateways."""
    run_dir.mkdir(parents=True, exist_ok=True)
    servers = [KeptTriton(repository, run_dir / f"triton-{place}", model, slots) for place in range(tritons + spares)]
    addresses = [server.address for server in servers]
    doors = [
        Gateway(addresses, run_dir / f"gateway-{place}.log", module, MODEL_NAME=model, **settings) for place in range(gateways)
    ]
    stack = Stack(servers[:tritons], servers[tritons:], doors)
    try:
        await asyncio.gather(*(server.start() for server in stack.tritons))
        await asyncio.gather(*(gateway.start() for gateway in doors))
        yield stack
    finally:
        await asyncio.gather(*(gateway.stop() for gateway in doors), return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
