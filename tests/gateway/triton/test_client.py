"""The gateway's client of Triton, with a look at what it really sends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import numpy as np
import pytest

from gateway.engine.step import StepRow
from gateway.errors import BackendUnavailable
from gateway.triton.client import CLOSE_TIMEOUT, TritonClient
from serve.triton_server import TritonServer
from tests.conftest import TINY

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_event_loop")]
PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
RST_STREAM = 3  # RFC 9113, section 6.4: how an HTTP/2 request is cancelled
ROW = StepRow(7, past_length=0, tokens=np.arange(5, dtype=np.int32), token_limit=9)


@asynccontextmanager
async def recorded(address: str) -> AsyncIterator[tuple[str, bytearray]]:
    """A relay in front of a Triton, and what came through it from the client."""
    sent, tasks = bytearray(), set()
    host, port = address.split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray) -> None:
        while data := await reader.read(65536):
            copy += data
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        for task in (pump(reader, back, sent), pump(there, writer, bytearray())):
            tasks.add(asyncio.ensure_future(task))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def frames(sent: bytearray) -> list[int]:
    """The types of the HTTP/2 frames (RFC 9113, section 4.1) of one connection."""
    found, place = [], PREFACE
    while place + 9 <= len(sent):
        found.append(sent[place + 3])
        place += 9 + int.from_bytes(sent[place : place + 3], "big")
    return found


async def test_a_step_that_nobody_waits_for_any_more_is_not_cancelled(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    """A Triton of up to 25.03 may die of that (its issue 8034)."""
    with start_triton(TINY, slots=2) as triton:
        async with recorded(triton.grpc_address) as (address, sent):
            client = TritonClient(address)
            model = await client.describe(TINY)
            (stub,) = triton.stub_pids
            os.kill(stub, signal.SIGSTOP)
            left = asyncio.create_task(client.step(model, [ROW], []))
            await asyncio.sleep(0.3)
            left.cancel()
            await asyncio.wait({left})
            closing = asyncio.create_task(client.close())
            await asyncio.sleep(CLOSE_TIMEOUT / 3)
            os.kill(stub, signal.SIGCONT)
            await closing
            assert left.cancelled()
            assert len(frames(sent)) > 4 and RST_STREAM not in frames(sent)


async def test_a_client_of_a_triton_that_hangs_is_closed_in_a_moment(
    start_triton: Callable[..., AbstractContextManager[TritonServer]],
) -> None:
    with start_triton(TINY, slots=2) as triton:
        client = TritonClient(triton.grpc_address)
        model = await client.describe(TINY)
        os.kill(triton.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(8):
                for _ in range(2):  # the second time it is not even given the step
                    with pytest.raises(BackendUnavailable):
                        await client.step(model, [ROW], [])
                await client.close()
        finally:
            os.kill(triton.pid, signal.SIGCONT)
