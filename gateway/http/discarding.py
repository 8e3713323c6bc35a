"""Discards what refused clients still send: closing the connection at once would destroy the response."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl

AT_ONCE = 1 << 18  # bytes read from a refused client before a pause
PAUSE = 0.005  # seconds; multiplied by the number of refused clients, so they share one such rate


class Discarding:
    """Discards one connection's input in portions: otherwise hundreds of such clients would keep the event loop busy."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport, self._flow = transport, flow
        self._size = 0  # bytes, since the last pause

    def take(self, size: int) -> bool:
        """Counts ``size`` discarded bytes. Returns whether it is time for `pause`."""
        self._size += size
        return self._size > AT_ONCE

    def pause(self, refused: int) -> None:
        """``refused``: how many connections are discarding their input, including this one."""
        self._size = 0
        self._flow.pause_reading()
        asyncio.get_running_loop().call_later(PAUSE * refused, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._flow.resume_reading()
