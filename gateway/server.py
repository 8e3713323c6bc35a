"""Starts the gateway as its own process and stops it gracefully."""

import asyncio
import logging
import os
import resource
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.errors import BackendUnavailable
from gateway.http.protocol import IDLE_TIMEOUT, MAXIMUM_CONNECTIONS, Protocol
from gateway.settings import DEFAULT_API_KEY, Settings, SettingsError
from gateway.triton.discovery import TritonDiscovery

CUT_AFTER = 1.0  # seconds for clients to read the end of their streams
END_INTERVAL = 0.1  # seconds
SAME_STOP = 1.0  # seconds within which a second signal is the same stop: `make serve` and a service manager both send one
OPEN_FILES = 2 * MAXIMUM_CONNECTIONS  # sockets included; many systems default to 1,024

logger = logging.getLogger("gateway")


def run(*, announced: bool = True) -> None:
    """Runs with the environment's settings until a signal stops it. Raises SystemExit with one sentence if it cannot start.
    ``announced``: whether to log the address and a warning about the public key.
    """
    try:
        settings = Settings.from_environment(os.environ)
        app = create_app(settings)
        if announced and settings.my_api_key == DEFAULT_API_KEY:
            logger.warning("The key is the public default: anyone who can reach this server can use it. Set MY_API_KEY.")
        asyncio.run(require_triton(settings))
    except SettingsError as error:
        sys.exit(f"gateway: {error}")
    _allow_open_files()
    Server(app, settings, announced=announced).run()


async def require_triton(settings: Settings) -> None:
    """Raises SettingsError if no Triton can be reached; uvicorn would print a traceback instead."""
    async with TritonDiscovery(settings.triton_url, settings.recovery_timeout) as tritons:
        try:
            await tritons.wait_for_models(settings.recovery_timeout)
        except BackendUnavailable as error:
            raise SettingsError(
                f"TRITON_URL is {settings.triton_url!r}; {error}. Start Triton first, or name another gRPC address."
            ) from error


class Server(uvicorn.Server):
    """uvicorn with a graceful stop: see `handle_exit`."""

    def __init__(self, app: FastAPI, settings: Settings, *, announced: bool = True) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=Protocol,
                ws="none",
                server_header=False,
                log_config=None,  # gateway/telemetry/logs.py configures logging
                access_log=False,
                timeout_keep_alive=IDLE_TIMEOUT,
                timeout_graceful_shutdown=settings.grace_period + 2,  # longer than a stop should take
            )
        )
        self._app = app
        self._settings = settings
        self._announced = announced
        self._stop_requested_at: float | None = None  # when the first signal came

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announced:
            host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
            logger.info("Listening on http://%s:%d", host, self._settings.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal, /readyz answers 503 and every response closes its connection. DRAIN_DELAY seconds later, the
        server stops accepting connections. GRACE_PERIOD seconds after that, the remaining sequences end with an error, and one
        second later the remaining connections are cut. A second signal ends the sequences at once. The exit status is 0.
        """
        now = time.monotonic()
        if self._stop_requested_at is None:
            self._stop_requested_at = now
            self._app.state.stopping = True
            delay = self._settings.drain_delay if self.started else 0
            asyncio.get_running_loop().call_later(delay, self._stop_accepting)
        elif now - self._stop_requested_at > SAME_STOP:
            self.should_exit = True
            self._end_texts()

    def _stop_accepting(self) -> None:
        self.should_exit = True
        asyncio.get_running_loop().call_later(self._settings.grace_period, self._end_texts)

    def _end_texts(self, cut_at: float | None = None) -> None:
        """Repeats until exit: a request that was still arriving may start a sequence."""
        loop = asyncio.get_running_loop()
        cut_at = loop.time() + CUT_AFTER if cut_at is None else cut_at
        if registry := getattr(self._app.state, "registry", None):  # none while it starts
            registry.end_sequences(BackendUnavailable("The server is stopping.", retry_after=2))
        if loop.time() >= cut_at:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        loop.call_later(END_INTERVAL, self._end_texts, cut_at)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES), hard))
