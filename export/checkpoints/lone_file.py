"""A directory in which training left files: the one checkpoint that is in it, or the last of a series."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from export.checkpoint import CheckpointError

SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}
FOLDERS = ("out", "log")  # where nanoGPT, llama2.c and minimind, build-nanogpt and llm.c write, in the project's directory
LAST = "ckpt.pt"  # of nanoGPT and llama2.c, beside which the latter leaves what it exported
OTHERS = re.compile(r"(optim|scheduler|state_?\d|rng|training_args|tok|gpt2_tokenizer)", re.IGNORECASE)  # how other files begin
SERIES = re.compile(r"(?P<name>.*?(model|ckpt|checkpoint|epoch|step|iter))[_-]?(?P<step>\d{1,12})", re.ASCII | re.IGNORECASE)
DEPTH, ENTRIES = 4, 2000  # directories below the one that is named, and how many of them are looked into
SHOWN = 6


def find(directory: Path) -> Path | None:
    """None where there is no file of this kind. CheckpointError where it is unclear which one is meant."""
    for place in (directory, *(directory / folder for folder in FOLDERS)):
        files = sorted(file for file in place.glob("*") if file.suffix in SUFFIXES and file.is_file())
        files = [file for file in files if not OTHERS.match(file.name)]
        if last := [file for file in files if file.name == LAST]:
            return last[0]
        if files:
            return _last(directory, files)
    return None


def below(directory: Path, find_in: Callable[[Path], Path | None]) -> Path | None:
    """The only checkpoint in the directories below, as in the root of a project. CheckpointError where there are several."""
    found: dict[Path, None] = {}
    for place in islice(_directories(directory), ENTRIES):
        if not any(one == place or one in place.parents for one in found) and (one := find_in(place)) is not None:
            found[one] = None
    if len(found) > 1:
        raise _several(directory, [*found])
    return next(iter(found), None)


def nothing(directory: Path) -> CheckpointError:
    """For a directory in which nothing is known."""
    found = [entry.name + "/" * entry.is_dir() for entry in sorted(directory.iterdir())]
    listed = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    endings = ", ".join(sorted(SUFFIXES))
    return CheckpointError(
        f"it holds no checkpoint: neither here nor in the directories below is a model's {endings} or .gguf, "
        f"or a directory with config.json (Hugging Face) or lit_model.pth (litgpt); found here: {listed}"
    )


def _directories(directory: Path) -> Iterator[Path]:
    """From the top down, without hidden ones, and not through links."""
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
