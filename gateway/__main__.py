"""``python -m gateway``: the gateway alone, beside a Triton that runs already. Settings: gateway/settings.py."""

import asyncio
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
        app = create_app(settings)
        asyncio.run(require_triton(settings))
    except SettingsError as error:
        sys.exit(f"gateway: {error}")
    Server(app, settings).run()


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
                log_config=None,  # gateway/logs.py has set it up
                access_log=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._app.state.stopping = True  # /readyz tells it
        asyncio.get_running_loop().call_later(FINISH_SECONDS, self._end_texts)

    def _end_texts(self) -> None:
        self._app.state.registry.end_texts(BackendUnavailable("The server is stopping.", retry_after=2))


if __name__ == "__main__":
    main()
