"""Clients that are refused while they still send: what comes is read and discarded, or a close would destroy the answer."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl

AT_ONCE = 1 << 18  # bytes of a refused client
PAUSE = 0.005  # seconds between such portions: of one client, or of all refused ones together


class Discarding:
    """Of one connection: in portions, since hundreds of such clients would keep the loop busy with nothing else."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport, self._flow = transport, flow
        self._size = 0  # bytes, since the last pause

    def take(self, size: int) -> bool:
        """Whether it is time for `pause`."""
        self._size += size
        return self._size > AT_ONCE

    def pause(self, refused: int) -> None:
        """``refused``: how many connections discard what they read, this one included."""
        self._size = 0
        self._flow.pause_reading()
        asyncio.get_running_loop().call_later(PAUSE * refused, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._flow.resume_reading()
