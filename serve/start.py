"""The start: settings, checks, export, Triton, gateway; then they are watched."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from gateway.settings import SettingsError
from serve import preflight
from serve.banner import announce, say, url, warn_of_default_key
from serve.exporting import MODEL_REPOSITORY, ROOT, ExportFailed, export_model
from serve.preflight import PreflightError
from serve.settings import Settings
from serve.supervisor import TRITON_START_TIMEOUT, GatewayDied, gateway_process, wait_healthy, watch
from serve.triton_server import TritonError, TritonServer
from serve.version_cleanup import Retirement

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
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        triton = retirement = None
        if settings.own_triton:
            model = export_model(settings)
            retirement = running.enter_context(Retirement(MODEL_REPOSITORY, ROOT / ".run" / "serving"))
            retirement.retire_all()
            triton = start_triton(settings, run_dir, model, running)
            environment |= {"TRITON_URL": triton.grpc_address, "MODEL_NAME": model}
        gateway = running.enter_context(gateway_process(environment, settings.gateway))
        wait_healthy(gateway, url(settings.gateway))
        announce(settings.gateway)
        watch(gateway, triton, retirement, url(settings.gateway))


def start_triton(settings: Settings, run_dir: Path, model: str, running: ExitStack) -> TritonServer:
    say(f"Starting Triton with {model}")
    slots = {"TIDEGATE_SLOTS": str(settings.slots)} if settings.slots else {}
    triton = running.enter_context(TritonServer(MODEL_REPOSITORY, run_dir, env=slots, report=_warn))
    triton.wait_ready(TRITON_START_TIMEOUT, needed=model)
    return triton


def _warn(sentence: str) -> None:
    say(f"WARNING: {sentence}")
