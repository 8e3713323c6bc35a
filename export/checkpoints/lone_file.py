"""A directory of training files: finds its only checkpoint, or the last of a series."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from export.checkpoint import CheckpointError

SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}
FOLDERS = ("out", "log")  # where nanoGPT, llama2.c, minimind, build-nanogpt and llm.c write, in the project's directory
LAST = "ckpt.pt"  # of nanoGPT and llama2.c; the latter puts its exports next to it
OTHERS = re.compile(r"(optim|scheduler|state_?\d|rng|training_args|tok|gpt2_tokenizer)", re.IGNORECASE)  # not models
SERIES = re.compile(r"(?P<name>.*?(model|ckpt|checkpoint|epoch|step|iter))[_-]?(?P<step>\d{1,12})", re.ASCII | re.IGNORECASE)
DEPTH, ENTRIES = 4, 2000  # levels of subdirectories, and the most directories to search
SHOWN = 6


def find(directory: Path) -> Path | None:
    """Returns None if there is no file of this kind. Raises CheckpointError if it is ambiguous."""
    for place in (directory, *(directory / folder for folder in FOLDERS)):
        files = sorted(file for file in place.glob("*") if file.suffix in SUFFIXES and file.is_file())
        files = [file for file in files if not OTHERS.match(file.name)]
        if last := [file for file in files if file.name == LAST]:
            return last[0]
        if files:
            return _last(directory, files)
    return None


def below(directory: Path, find_in: Callable[[Path], Path | None]) -> Path | None:
    """The only checkpoint in the subdirectories, as in a project's root. Raises CheckpointError if there are several."""
    found: dict[Path, None] = {}
    for place in islice(_directories(directory), ENTRIES):
        if not any(one == place or one in place.parents for one in found) and (one := find_in(place)) is not None:
            found[one] = None
    if len(found) > 1:
        raise _several(directory, [*found])
    return next(iter(found), None)


def nothing(directory: Path) -> CheckpointError:
    """The error for a directory without a recognised checkpoint."""
    found = [entry.name + "/" * entry.is_dir() for entry in sorted(directory.iterdir())]
    listed = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    endings = ", ".join(sorted(SUFFIXES))
    return CheckpointError(
        f"it holds no checkpoint: neither here nor in the directories below is a model's {endings} or .gguf, "
        f"or a directory with config.json (Hugging Face) or lit_model.pth (litgpt); found here: {listed}"
    )


def _directories(directory: Path) -> Iterator[Path]:
    """Subdirectories, top down, without hidden ones, not following links."""
    for place, folders, _ in os.walk(directory):
        depth = len(Path(place).relative_to(directory).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEPTH else []
        if depth:
            yield Path(place)


def _last(directory: Path, files: list[Path]) -> Path:
    steps = {file: SERIES.fullmatch(file.stem) for file in files}
    series = {(step["name"], file.suffix) if step else (file.stem, file.suffix) for file, step in steps.items()}
    if len(series) > 1:
        raise _several(directory, files)
    return max(files, key=lambda file: int(step["step"]) if (step := steps[file]) else 0)


def _several(directory: Path, files: list[Path]) -> CheckpointError:
    names = ", ".join(str(file.relative_to(directory)) for file in files[:SHOWN])
    return CheckpointError(f"it holds several checkpoints, name one of them: {names}")
