"""Runs exports with the settings of `tidegate serve` and `tidegate export`, each in its own process."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from export.demonstration import demonstration_checkpoint
from export.repository import Repository
from gateway.settings import SettingsError
from serve import servers
from serve.banner import say
from serve.installation import can_serve, complete
from serve.paths import COMMAND, module_environment
from serve.preflight import PreflightError
from serve.processes import GuardedProcess
from serve.settings import Settings

OUTDATED = 3  # exit status of `python -m export --check` if the same export is not in the repository


class ExportFailed(Exception):
    """The export failed; if it refused the checkpoint, it has already printed why."""


def run(flags: Sequence[str]) -> str | None:
    """`tidegate export`. Running servers then serve the model. Returns the error message if it fails."""
    try:
        settings = Settings.from_environment(os.environ)
        complete(settings, triton=False)
        name = export_model(settings, flags)
    except (SettingsError, PreflightError, ExportFailed) as error:
        return f"tidegate: {error}"
    running = servers.running(settings.model_repository)
    for server in running:
        server.serve(name)
        say(f"The server at {server.url} serves {name} within seconds")
    if not running and can_serve():
        say(f"Its name is {name}. To serve it: MODEL_NAME={name} {COMMAND}")
    return None


def export_for_serving(settings: Settings) -> str:
    """Like `export_model`, but raises ExportFailed if that would replace a model which another server serves."""
    name = model_name(settings)
    for server in servers.running(settings.model_repository):
        if server.serves(name) and not _is_kept(settings, name) and _export(settings, name, ["--check"]) == OUTDATED:
            raise ExportFailed(
                f"the server at {server.url} serves another export named {name}, which this one would replace there; "
                f"give this one a name of its own: MODEL_NAME={name}-2 (or `tidegate export`, if it is meant to replace it)"
            )
    return export_model(settings)


def export_model(settings: Settings, flags: Sequence[str] = ()) -> str:
    """Ensures that the model is in the model repository and returns its name. Raises ExportFailed."""
    name = model_name(settings)
    if _is_kept(settings, name):
        say(f"MODEL_CHECKPOINT is not set: {name} stays as it was exported")
    elif status := _export(settings, name, flags):
        raise ExportFailed(f"the export of {_checkpoint(settings)} ended with status {status}")
    return name


def model_name(settings: Settings) -> str:
    return settings.gateway.model_name or settings.model_name(_checkpoint(settings))


def _checkpoint(settings: Settings) -> Path:
    try:
        return settings.checkpoint or demonstration_checkpoint()
    except FileNotFoundError as error:
        raise ExportFailed(str(error)) from error


def _is_kept(settings: Settings, name: str) -> bool:
    """Whether no checkpoint is named and a model of this name exists that the demonstration model must not replace."""
    repository = Repository(settings.model_repository)
    if settings.checkpoint is not None or not repository.versions(name):
        return False
    try:
        demonstration = demonstration_checkpoint().name
    except FileNotFoundError:  # not installed
        return True
    return bool(repository.card_of(name).get("parameters", {}).get("checkpoint") != demonstration)


def _export(settings: Settings, name: str, flags: Sequence[str]) -> int:
    """Returns the export's exit status. It runs in its own process because it needs several times the memory of serving."""
    options = {
        "--repository": settings.model_repository,
        "--name": name,
        "--precision": settings.precision,
        "--tokenizer": settings.tokenizer,
        "--chat-template": settings.chat_template,
        "--heads": settings.heads,
        "--context-length": settings.context_length,
    }
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    command = [sys.executable, "-m", "export", *given, *flags, "--", str(_checkpoint(settings))]
    # SIGINT makes the export clean up what it has begun.
    process = GuardedProcess(command, env=os.environ | module_environment(), stop_signal=signal.SIGINT)
    try:
        return process.wait()
    finally:
        process.stop()
