"""Handles clients that read nothing: their unsent responses, and the requests behind them, stay in memory."""

import asyncio

UNREAD_TIMEOUT = 60.0  # seconds within which a client with unread output must read some of it


class UnreadWatch:
    """Aborts a connection whose client reads nothing for UNREAD_TIMEOUT, even if it sends something meanwhile."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._look: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watches until everything is read, or until `end`."""
        left = self._transport.get_write_buffer_size()
        if left and self._look is None:
            self._look = asyncio.get_running_loop().call_later(UNREAD_TIMEOUT, self._compare, left)

    def end(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _compare(self, before: int) -> None:
        self._look = None
        if self._transport.get_write_buffer_size() == before:
            self._transport.abort()
        else:
            self.begin()
