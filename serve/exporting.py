"""`python -m serve.exporting`: the export alone, with the settings of `make serve`."""

import os
import signal
import sys
from pathlib import Path

from export.demonstration import demonstration_checkpoint
from export.repository import Repository
from gateway.settings import SettingsError
from serve.processes import GuardedProcess
from serve.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MODEL_REPOSITORY = ROOT / "model_repository"


class ExportFailed(Exception):
    """The export refused the checkpoint, and has said why."""


def export_model(settings: Settings) -> str:
    """The name of the model, which then lies in the model repository. Quick where it lies there already.

    In a process of its own: the memory of an export is several times that of serving. ExportFailed where it fails.
    """
    try:
        checkpoint = settings.checkpoint or demonstration_checkpoint()
    except FileNotFoundError as error:
        raise ExportFailed(str(error)) from error
    name = settings.model_name(checkpoint)
    if settings.checkpoint is None and _is_someone_elses(name, checkpoint):
        print(f"MODEL_CHECKPOINT is not set: {name} stays as it was exported", flush=True)
        return name
    options = {
        "--repository": MODEL_REPOSITORY,
        "--name": name,
        "--precision": settings.precision,
        "--tokenizer": settings.tokenizer,
        "--chat-template": settings.chat_template,
        "--heads": settings.heads,
        "--context-length": settings.context_length,
    }
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    command = [sys.executable, "-m", "export", *given, "--", str(checkpoint)]
    # SIGINT: the export then clears away what it has begun.
    process = GuardedProcess(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stop_signal=signal.SIGINT)
    try:
        status = process.wait()
    finally:
        process.stop()
    if status != 0:
        raise ExportFailed(f"the export of {checkpoint} ended with status {status}")
    return name


def _is_someone_elses(name: str, demonstration: Path) -> bool:
    """Whether a model of this name exists that was not made from the demonstration checkpoint, which must never replace it."""
    repository = Repository(MODEL_REPOSITORY)
    made_from = repository.card_of(name).get("parameters", {}).get("checkpoint")
    return bool(repository.versions(name)) and made_from != demonstration.name


if __name__ == "__main__":
    try:
        export_model(Settings.from_environment(os.environ))
    except (SettingsError, ExportFailed) as error:
        sys.exit(f"tidegate: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
