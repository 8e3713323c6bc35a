"""Several Tritons that are kept alive as `make serve` keeps its own, and gateways before them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.errors import TidegateError
from gateway.text.model import Model
from gateway.triton.client import TritonClient
from serve.supervisor import HEALTH_INTERVAL, MOST_UNANSWERED, WATCH_INTERVAL
from serve.triton_server import TritonError
from testing.gateway import Gateway
from testing.server import START_TIMEOUT
from testing.triton import Triton

PROBE_TIMEOUT = 3.0  # seconds: the machine is busy
GRACE = 70.0  # seconds that a gateway has to stop, ten more than its texts have


class KeptTriton:
    """A Triton that is started again when it or its stub dies or hangs: as serve/supervisor.py does it, but without its bound
    on how often, and asking Triton itself, since a gateway with two of them is well when one hangs."""

    def __init__(self, repository: Path, run_dir: Path, model: str, slots: int) -> None:
        self.server = Triton(repository, run_dir, [model], slots=slots)
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
        await asyncio.to_thread(self.server.__enter__)
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
            self.server.__enter__()


class Stack:
    """``tritons`` run; ``spares`` may replace one of them, at an address that the gateways know already."""

    def __init__(self, tritons: list[KeptTriton], spares: list[KeptTriton], gateways: list[Gateway]) -> None:
        self.tritons, self.spares, self.gateways = tritons, spares, gateways

    async def wait_whole(self, timeout: float = START_TIMEOUT) -> None:
        """Until every Triton answers."""
        async with asyncio.timeout(timeout):
            while not all(await asyncio.gather(*(triton.answers() for triton in self.tritons))):
                await asyncio.sleep(0.1)

    async def wait_idle(self, timeout: float) -> int:
        """Sequences that are left in all gateways after at most ``timeout`` seconds: 0 where every slot was freed."""
        deadline = time.monotonic() + timeout
        while (left := await self._load()) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return left

    async def _load(self) -> int:
        return sum([await asyncio.to_thread(gateway.load) for gateway in self.gateways])


@asynccontextmanager
async def running_stack(
    repository: Path,
    run_dir: Path,
    *,
    model: str,
    tritons: int = 1,
    spares: int = 0,
    gateways: int = 1,
    slots: int = 32,
    module: str = "gateway",
    **settings: str,
) -> AsyncIterator[Stack]:
    """Everything runs and answers; at the end nothing of it is left. ``module``, ``settings``: of the gateways."""
    run_dir.mkdir(parents=True, exist_ok=True)
    servers = [KeptTriton(repository, run_dir / f"triton-{number}", model, slots) for number in range(tritons + spares)]
    addresses = ",".join(server.address for server in servers)
    settings = {"MODEL_NAME": model, "GRACE_PERIOD": str(int(GRACE) - 10), "DRAIN_DELAY": "1"} | settings
    doors = [
        Gateway(addresses, run_dir / f"gateway-{number}.log", module=module, ready="/readyz", grace=GRACE, **settings)
        for number in range(gateways)
    ]
    stack = Stack(servers[:tritons], servers[tritons:], doors)
    try:
        await asyncio.gather(*(server.start() for server in stack.tritons))
        await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in doors))
        yield stack
    finally:
        await asyncio.gather(*(asyncio.to_thread(gateway.stop) for gateway in doors), return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
