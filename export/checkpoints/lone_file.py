"""A directory in which training left files: the one checkpoint that is in it, or the last of a series."""

import re
from pathlib import Path

from export.checkpoint import CheckpointError

SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}
FOLDERS = ("out", "log")  # where nanoGPT, llama2.c and minimind, build-nanogpt and llm.c write, in the project's directory
OTHERS = re.compile(r"(optim|scheduler|state|rng|training_args|tok|gpt2_tokenizer)", re.IGNORECASE)  # how other files begin
SERIES = re.compile(r"(?P<name>.*?)_?(?P<step>\d{1,12})", re.ASCII)


def find(directory: Path) -> Path | None:
    """None where there is no file of this kind. CheckpointError where it is unclear which one is meant."""
    for place in (directory, *(directory / folder for folder in FOLDERS)):
        files = sorted(file for file in place.glob("*") if file.suffix in SUFFIXES and file.is_file())
        files = [file for file in files if not OTHERS.match(file.name)]
        if files:
            return _last(directory, files)
    return None


def _last(directory: Path, files: list[Path]) -> Path:
    steps = {file: SERIES.fullmatch(file.stem) for file in files}
    series = {(step["name"], file.suffix) if step else (file.stem, file.suffix) for file, step in steps.items()}
    if len(series) > 1:
        names = ", ".join(str(file.relative_to(directory)) for file in files[:6])
        raise CheckpointError(f"it holds several checkpoints, name one of them: {names}")
    return max(files, key=lambda file: int(step["step"]) if (step := steps[file]) else 0)
