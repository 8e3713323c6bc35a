"""The start: settings, checks, export, Triton, gateway; then they are watched."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from gateway.settings import SettingsError
from serve import preflight
from serve.announcement import announce, say, url, warn_of_default_key
from serve.exporting import MODEL_REPOSITORY, ROOT, ExportFailed, export_model
from serve.preflight import PreflightError
from serve.settings import Settings
from serve.supervisor import TRITON_START_TIMEOUT, GatewayDied, start_gateway, wait_healthy, watch
from serve.triton_server import TritonError, TritonServer

FAILURES = (SettingsError, PreflightError, ExportFailed, TritonError, GatewayDied)


def start() -> None:
    """Never returns: what a signal raises, or SystemExit with the reason of a failure."""
    try:
        serve(Settings.from_environment(os.environ))
    except FAILURES as error:
        sys.exit(f"tidegate: {error}")


def serve(settings: Settings) -> None:
    preflight.check(settings)
    run_dir = ROOT / ".run" / str(settings.gateway.port)
    with ExitStack() as running:  # what is entered last is stopped first
        running.enter_context(preflight.held(run_dir, settings.gateway.port))
        warn_of_default_key(settings.gateway)
        triton = start_triton(settings, run_dir, running) if settings.own_triton else None
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"TRITON_URL": triton.grpc_address} if triton else {})
        gateway = running.enter_context(start_gateway(environment))
        wait_healthy(gateway, url(settings.gateway))
        announce(settings.gateway)
        watch(gateway, triton, url(settings.gateway))


def start_triton(settings: Settings, run_dir: Path, running: ExitStack) -> TritonServer:
    model = export_model(settings)
    say(f"Starting Triton with {model}")
    slots = {"TIDEGATE_SLOTS": str(settings.slots)} if settings.slots else {}
    triton = running.enter_context(TritonServer(MODEL_REPOSITORY, run_dir, [model], slots))
    triton.wait_ready(TRITON_START_TIMEOUT)
    return triton
