"""Where things are stored: inside the clone, or else in the user's data directory. Standard library only."""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
IS_CLONE = (SOURCE / "pyproject.toml").is_file()


def _state() -> Path:
    if IS_CLONE:
        return SOURCE
    data = Path(os.environ.get("XDG_DATA_HOME", ""))  # its specification says to ignore relative paths
    return (data if data.is_absolute() else Path("~/.local/share").expanduser()) / "tidegate"


STATE = _state()
RUN = STATE / (".run" if IS_CLONE else "run")  # logs and runtime state, one directory per port
MODEL_REPOSITORY = STATE / "model_repository"
COMMAND = "make serve" if IS_CLONE else "tidegate serve"  # as shown in suggestions


def module_environment() -> dict[str, str]:
    """Environment for `python -m`: finds our modules even if the working directory has modules of the same names."""
    return {"PYTHONPATH": str(SOURCE), "PYTHONSAFEPATH": "1"}
