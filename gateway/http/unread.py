"""Clients that read nothing: what they are sent stays in memory, and so do the requests behind it."""

import asyncio

UNREAD_TIMEOUT = 60.0  # seconds within which a client that is behind must read something


class UnreadWatch:
    """Aborts a connection whose client reads nothing for UNREAD_TIMEOUT, whatever it sends meanwhile."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._look: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Until everything is read, or `end`."""
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
