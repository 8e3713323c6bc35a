"""Reads a checkpoint of any supported kind from a path."""

import re
from dataclasses import replace
from pathlib import Path

from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import (
    build_nanogpt,
    gguf,
    huggingface,
    litgpt,
    llama2c,
    llama2c_bin,
    llm_c,
    llms_from_scratch,
    lone_file,
    mingpt,
    minimind,
    nanochat,
    nanogpt,
    nearby,
    torch_file,
)
from export.checkpoints.options import Options
from export.text.chat_template import choose_template

MESSAGE_LIMIT = 600  # characters
WEIGHTS = re.compile(r".*\.safetensors(\.index\.json)?|pytorch_model.*\.bin(\.index\.json)?", re.DOTALL)
DIRECTORIES = (nanochat, litgpt, mingpt, huggingface, gguf, nanogpt, build_nanogpt, lone_file)  # the first match wins
DICTIONARIES = (llama2c, nanogpt, nanochat, llms_from_scratch, minimind, mingpt, build_nanogpt)  # saved by torch.save
FILES = (gguf, llm_c, llama2c_bin)


def read(
    path: str | Path, *, tokenizer: str | None = None, chat_template: str | None = None, heads: int | None = None
) -> Checkpoint:
    """Reads the checkpoint at ``path``, of any supported kind. Runs no code from it.

    ``tokenizer``: see `export.text.tokenizer_source.named`; None: the checkpoint's own.
    ``chat_template``: `dolly`, `none`, or a Jinja file; None: the checkpoint's own.
    ``heads``: number of attention heads, for files that do not store it.
    Raises CheckpointError with one sentence that starts with the path.
    """
    path = Path(path).expanduser()
    try:
        path = _existing(path)
        checkpoint = _read(path, Options(tokenizer, heads))
        if heads not in (None, checkpoint.architecture.heads):
            raise CheckpointError(f"HEADS (--heads) is {heads}, but it says itself that it has {checkpoint.architecture.heads}")
        return replace(checkpoint, tokenizer=choose_template(checkpoint.tokenizer, chat_template))
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {one_line(str(exc))}") from exc
    except MemoryError as exc:
        raise CheckpointError(f"{path}: reading it takes more memory than there is") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: it cannot be read: {exc.strerror or exc}") from exc


def one_line(text: str) -> str:
    """Collapses text to one line of limited length: names and values in it come from the file and can be anything."""
    text = "".join(character if character.isprintable() else " " for character in text[: 2 * MESSAGE_LIMIT])
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"


def located(path: Path) -> Path:
    """The file or directory that ``path`` refers to. A file inside a Hugging Face directory stands for the directory; a
    directory of training checkpoints stands for the newest one. Raises CheckpointError if it is ambiguous."""
    inside = path.name in {*huggingface.INSIDE, *litgpt.INSIDE} or bool(WEIGHTS.fullmatch(path.name))
    directory = path.parent if inside else path
    if not directory.is_dir():
        return path
    found = _found(directory)
    if inside and found != directory and path.suffix != ".json":
        return path  # it was named explicitly, and is not part of the other checkpoint in that directory
    return found or (directory if inside else lone_file.below(directory, _found) or directory)


def _found(directory: Path) -> Path | None:
    return next((found for kind in DIRECTORIES if (found := kind.find(directory)) is not None), None)


def watched(checkpoint: Path) -> list[Path]:
    """What an export may read, judging by names: a directory, or a file with its other parts and files near it."""
    place = located(checkpoint)
    return [place] if place.is_dir() else [*parts(place), *place.parent.glob("*.json"), *nearby.watched(place)]


def parts(file: Path) -> list[Path]:
    """The file itself, or all parts of a split GGUF."""
    whole = gguf.file.unsplit(file.name)
    return [part for part in sorted(file.parent.glob("*.gguf")) if gguf.file.unsplit(part.name) == whole] or [file]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError("there is no such file or directory")
    if not path.is_file() and not path.is_dir():
        raise CheckpointError("it is neither a file nor a directory")  # reading a pipe could block forever
    return located(path)


def _read(path: Path, options: Options) -> Checkpoint:
    if path.is_dir():
        if not any(path.iterdir()):
            raise CheckpointError("it is an empty directory")
        reader = litgpt if litgpt.find(path) == path else huggingface
        return reader.read(path, options)
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK\x03\x04"):
        saved = torch_file.load(path)
        kind = next((kind for kind in DICTIONARIES if kind.recognises(saved)), build_nanogpt)
        return kind.read(path, saved, options)
    if path.suffix == ".safetensors":
        raise CheckpointError("it has no config.json beside it, as it has in a Hugging Face directory")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("it is a Git LFS pointer, not the file itself: run `git lfs pull`")
    if start.startswith(b"\x80"):
        raise CheckpointError(
            "it is a bare pickle, as torch.save wrote before version 1.6: load it and save it again with a newer torch"
        )
    for kind in FILES:
        if kind.recognises(start, path):
            return kind.read(path, options)
    raise CheckpointError(
        "it is not a checkpoint: expected a .pt or .pth that torch.save wrote, a .gguf, a .bin of llm.c or llama2.c, "
        "or a Hugging Face directory"
    )
