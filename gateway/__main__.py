"""``python -m gateway``: the gateway alone, beside a Triton that runs already. Settings: gateway/settings.py."""

import asyncio
import os
import sys

import uvicorn

from gateway.app import create_app
from gateway.errors import BackendUnavailable
from gateway.settings import Settings, SettingsError
from gateway.triton import TritonClient

SHUTDOWN_SECONDS = 3  # for answers that are being written; then they are cut off. `make serve` waits 4


def main() -> None:
    try:
        settings = Settings.from_environment(os.environ)
        asyncio.run(require_triton(settings))
    except SettingsError as error:
        sys.exit(f"gateway: {error}")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


async def require_triton(settings: Settings) -> None:
    """Raises SettingsError where no Triton can be reached: uvicorn would tell it as a traceback."""
    async with TritonClient(settings.triton_url) as triton:
        try:
            await triton.wait_for_models(settings.recovery_timeout)
        except BackendUnavailable as error:
            raise SettingsError(
                f"TRITON_URL is {settings.triton_url!r}; {error}. Start Triton first, or name another gRPC address."
            ) from error


if __name__ == "__main__":
    main()
