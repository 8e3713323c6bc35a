"""Where things are stored: in a clone inside it, elsewhere in the user's data directory. Standard library only."""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
IS_CLONE = (SOURCE / "pyproject.toml").is_file()


def _state() -> Path:
    if IS_CLONE:
        return SOURCE
    data = Path(os.environ.get("XDG_DATA_HOME", ""))  # a relative one is to be ignored, says its specification
    return (data if data.is_absolute() else Path("~/.local/share").expanduser()) / "tidegate"


STATE = _state()
RUN = STATE / (".run" if IS_CLONE else "run")  # logs and what runs; a directory for each port
MODEL_REPOSITORY = STATE / "model_repository"
COMMAND = "make serve" if IS_CLONE else "tidegate serve"  # in what is suggested


def module_environment() -> dict[str, str]:
    """For `python -m`: our modules, whatever the working directory has of the same names."""
    return {"PYTHONPATH": str(SOURCE), "PYTHONSAFEPATH": "1"}
