"""``python -m gateway``: the gateway alone, beside a Triton that runs already. Settings: gateway/settings.py."""

import os
import sys

import uvicorn

from gateway.app import create_app
from gateway.settings import Settings, SettingsError

SHUTDOWN_SECONDS = 3  # for answers that are being written; then they are cut off. `make serve` waits 4


def main() -> None:
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.exit(f"gateway: {error}")
    app = create_app(settings)
    uvicorn.run(app, host=settings.host, port=settings.port, server_header=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS)


if __name__ == "__main__":
    main()
