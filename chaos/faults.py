"""What each kind of fault does to the stack."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from chaos.load import Load
from chaos.schedule import DISCONNECT, DRAIN, IN_DELIVERY, LEAVINGS, Fault
from testing.stack import KeptTriton, Stack

VICTIM_TIMEOUT = 30.0  # seconds
PAUSE_OF_SWAP = 2.0  # seconds between the end of a Triton and the start of the one that replaces it
PRINTED_DISCONNECTS = 20  # one line for so many

Say = Callable[[str], None]


class Breaker:
    """Performs a schedule. ``done`` tells every fault's kind and when it hit."""

    def __init__(self, stack: Stack, load: Load, say: Say) -> None:
        self._stack, self._load, self._say = stack, load, say
        self._began = time.monotonic()
        self.done: list[tuple[str, float]] = []
        self.drains: list[tuple[int, float]] = []  # exit status, and how many seconds it took

    async def perform(self, faults: list[Fault]) -> None:
        """Faults behind the gateways come one after the other, so do drains, and all else at any time."""
        leaving = [fault for fault in faults if fault.kind == DISCONNECT]
        draining = [fault for fault in faults if fault.kind == DRAIN]
        behind = [fault for fault in faults if fault.kind not in (DISCONNECT, DRAIN, IN_DELIVERY)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._break_backend(behind))
            tasks.create_task(self._drain_gateways(draining))
            for fault in leaving:
                tasks.create_task(self._disconnect(fault))
            for fault in (fault for fault in faults if fault.kind == IN_DELIVERY):
                tasks.create_task(self._fail_a_delivery(fault))
        await self._stack.wait_whole()

    async def _break_backend(self, faults: list[Fault]) -> None:
        for fault in faults:
            await self._wait_for(fault)
            if not fault.early:
                await self._stack.wait_whole()
            match fault.kind:
                case "kill of Triton":
                    await self._kill(fault, stub=False)
                case "kill of its stub":
                    await self._kill(fault, stub=True)
                case "stall":
                    await self._stall(fault)
                case "swap of a replica":
                    await self._swap(fault)

    async def _drain_gateways(self, faults: list[Fault]) -> None:
        for fault in faults:
            await self._wait_for(fault)
            gateway = self._stack.gateways[fault.number % len(self._stack.gateways)]
            self._note(fault, f"at {gateway.url}")
            began = time.monotonic()
            self.drains.append((await asyncio.to_thread(gateway.drain), time.monotonic() - began))
            await asyncio.to_thread(gateway.start)

    async def _disconnect(self, fault: Fault) -> None:
        await self._wait_for(fault)
        self.done.append((fault.kind, time.monotonic()))
        if fault.number % PRINTED_DISCONNECTS == PRINTED_DISCONNECTS - 1:
            self._line(f"disconnect, the {fault.number + 1}th")
        await self._load.leave(LEAVINGS[fault.number % len(LEAVINGS)], fault.luck)

    async def _fail_a_delivery(self, fault: Fault) -> None:
        await self._wait_for(fault)
        await self._load.be_hurt(fault.luck)
        self.done.append((fault.kind, time.monotonic()))

    async def _kill(self, fault: Fault, stub: bool) -> None:
        victims = self._stack.tritons if fault.everywhere else [self._pick(fault)]
        pids = [await _pid(triton, stub) for triton in victims]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._note(fault, f"at {', '.join(triton.address for triton in victims)}{', early' if fault.early else ''}")

    async def _stall(self, fault: Fault) -> None:
        triton, stub = self._pick(fault), fault.number % 2 == 0
        pid = await _pid(triton, stub)
        restarts = len(triton.restarts)
        os.kill(pid, signal.SIGSTOP)
        endless = math.isinf(fault.stalled)
        how_long = "until it is started again" if endless else f"for {fault.stalled:.0f} s"
        self._note(fault, f"of {'the stub' if stub else 'Triton'} at {triton.address} {how_long}")
        end = time.monotonic() + (60 if endless else fault.stalled)
        while time.monotonic() < end and len(triton.restarts) == restarts:
            await asyncio.sleep(0.1)
        if len(triton.restarts) == restarts:  # else the process id may be another's by now
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _swap(self, fault: Fault) -> None:
        """One replica ends for good; another takes its place, at an address of its own or, every other time, at the same."""
        place = int(fault.luck * len(self._stack.tritons))
        old = self._stack.tritons[place]
        new = self._stack.spares.pop(0) if fault.number % 2 == 0 and self._stack.spares else old
        self._note(fault, f"{old.address} by {new.address}")
        await old.stop()
        await asyncio.sleep(PAUSE_OF_SWAP)
        if new is not old:
            self._stack.spares.append(old)
        self._stack.tritons[place] = new
        await new.start()

    def _pick(self, fault: Fault) -> KeptTriton:
        return self._stack.tritons[int(fault.luck * len(self._stack.tritons))]

    async def _wait_for(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._began + fault.at - time.monotonic()))

    def _note(self, fault: Fault, what: str) -> None:
        self.done.append((fault.kind, time.monotonic()))
        self._line(f"{fault.kind} {fault.number + 1}: {what}")

    def _line(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")


async def _pid(triton: KeptTriton, stub: bool) -> int:
    """Of the server, or of a living stub: waits for one."""
    async with asyncio.timeout(VICTIM_TIMEOUT):
        while (pid := triton.server.victim(stub)) is None:
            await asyncio.sleep(0.05)
        return pid
