"""``python -m gateway``: the gateway alone, beside a Triton that runs already. Settings: gateway/settings.py."""

import asyncio
import logging
import os
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.errors import BackendUnavailable
from gateway.settings import Settings, SettingsError
from gateway.triton import TritonClient

FINISH_SECONDS = 2  # for texts that are being written; then they end with an error that their clients can read
SHUTDOWN_SECONDS = 3  # then connections are closed. `make serve` waits 4


def main() -> None:
    try:
        settings = Settings.from_environment(os.environ)
        asyncio.run(require_triton(settings))
    except SettingsError as error:
        sys.exit(f"gateway: {error}")
    Server(create_app(settings), settings).run()


async def require_triton(settings: Settings) -> None:
    """Raises SettingsError where no Triton can be reached: uvicorn would tell it as a traceback."""
    async with TritonClient(settings.triton_url) as triton:
        try:
            await triton.wait_for_models(settings.recovery_timeout)
        except BackendUnavailable as error:
            raise SettingsError(
                f"TRITON_URL is {settings.triton_url!r}; {error}. Start Triton first, or name another gRPC address."
            ) from error


class Server(uvicorn.Server):
    """uvicorn, but a stop ends the texts before it cuts their connections."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._app = app
        # Probes come every few seconds for ever, and say nothing about who uses the model.
        logging.getLogger("uvicorn.access").addFilter(lambda record: "/health " not in record.getMessage())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        asyncio.get_running_loop().call_later(FINISH_SECONDS, self._end_texts)

    def _end_texts(self) -> None:
        for engine in self._app.state.engines.values():
            engine.end_texts(BackendUnavailable("The server is stopping.", retry_after=2))


if __name__ == "__main__":
    main()
