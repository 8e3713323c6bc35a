"""The start sequence: settings, checks, export, Triton, gateway; then supervision."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from gateway.settings import SettingsError
from serve import preflight
from serve.banner import announce, say, url, warn, warn_of_default_key
from serve.exporting import ExportFailed, export_for_serving
from serve.installation import complete
from serve.paths import RUN, module_environment
from serve.preflight import PreflightError
from serve.servers import Server, registered
from serve.settings import ALL, Settings
from serve.supervisor import TRITON_START_TIMEOUT, GatewayDied, gateway_process, wait_healthy, watch
from serve.triton_server import TritonError, TritonServer
from serve.version_cleanup import Retirement

FAILURES = (SettingsError, PreflightError, ExportFailed, TritonError, GatewayDied)


def start() -> None:
    """Never returns: raises whatever a signal handler raises, or SystemExit with the reason for a failure."""
    try:
        serve(Settings.from_environment(os.environ))
    except FAILURES as error:
        sys.exit(f"tidegate: {error}")


def serve(settings: Settings) -> None:
    preflight.check(settings)
    run_dir = RUN / str(settings.gateway.port)
    with ExitStack() as running:  # stopped in reverse order
        running.enter_context(preflight.held(run_dir, settings.gateway.port))
        warn_of_default_key(settings.gateway)
        environment = os.environ | module_environment()
        triton = retirement = model = None
        if settings.own_triton:
            complete(settings, triton=True)
            model = export_for_serving(settings)
            retirement = running.enter_context(Retirement(settings.model_repository))
            retirement.retire_all()
            server = running.enter_context(registered(_server(settings, run_dir, model), (model, *settings.models)))
            triton = start_triton(settings, server, running)
            environment |= {"TRITON_URL": triton.grpc_address, "MODEL_NAME": model}
        gateway = running.enter_context(gateway_process(environment, settings.gateway))
        models = wait_healthy(gateway, url(settings.gateway))
        announce(settings.gateway, model or settings.gateway.model_name, models, triton)
        watch(gateway, triton, retirement, url(settings.gateway))


def _server(settings: Settings, run_dir: Path, model: str) -> Server:
    return Server(
        process=os.getpid(),
        url=url(settings.gateway),
        repository=str(settings.model_repository),
        model=model,
        everything=ALL in settings.models,
        directory=str(run_dir),
    )


def start_triton(settings: Settings, server: Server, running: ExitStack) -> TritonServer:
    say(f"Starting Triton with {server.model}")
    slots = {"TIDEGATE_SLOTS": str(settings.slots)} if settings.slots else {}
    triton = TritonServer(settings.model_repository, Path(server.directory), env=slots, report=_warn, shows=server.serves)
    running.enter_context(triton).wait_ready(TRITON_START_TIMEOUT, needed=server.model)
    return triton


def _warn(sentence: str) -> None:
    warn(f"WARNING: {sentence}")
