"""`make serve`: from a checkpoint to an address that answers, until Ctrl-C."""

import os
import signal
import sys
from contextlib import ExitStack
from types import FrameType
from typing import NoReturn

from gateway.settings import SettingsError
from serve import preflight
from serve.announcement import announce, say, url, warn_of_default_key
from serve.exporting import MODEL_REPOSITORY, ROOT, ExportFailed, export_model
from serve.preflight import PreflightError
from serve.settings import Settings
from serve.supervisor import TRITON_START_TIMEOUT, GatewayDied, start_gateway, wait_healthy, watch
from serve.triton_server import TritonError, TritonServer

FAILURES = (SettingsError, PreflightError, ExportFailed, TritonError, GatewayDied)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody pressed Ctrl-C or sent a signal that asks for the end."""


def main() -> None:
    settings = Settings.from_environment(os.environ)
    preflight.check(settings)
    warn_of_default_key(settings.gateway)
    with ExitStack() as running:  # what is entered last is stopped first
        triton = start_triton(settings, running) if settings.own_triton else None
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"TRITON_URL": triton.grpc_address} if triton else {})
        gateway = running.enter_context(start_gateway(environment))
        wait_healthy(gateway, url(settings.gateway))
        announce(settings.gateway)
        watch(gateway, triton)


def start_triton(settings: Settings, running: ExitStack) -> TritonServer:
    model = export_model(settings)
    say(f"Starting Triton with {model}")
    slots = {"TIDEGATE_SLOTS": str(settings.slots)} if settings.slots else {}
    run_dir = ROOT / ".run" / str(settings.gateway.port)  # a second `make serve` beside this one has another port
    triton = running.enter_context(TritonServer(MODEL_REPOSITORY, run_dir, [model], slots))
    triton.wait_ready(TRITON_START_TIMEOUT)
    return triton


def stop(number: int, frame: FrameType | None) -> NoReturn:
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)  # impatience must not leave anything behind
    raise Stopped


if __name__ == "__main__":
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, stop)
    try:
        main()
    except Stopped:
        say("\nTidegate has stopped.")
    except FAILURES as error:
        sys.exit(f"tidegate: {error}")
