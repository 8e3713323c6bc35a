"""From a path to a Checkpoint, whatever kind of checkpoint it is."""

from dataclasses import replace
from pathlib import Path

from export.chat_template import choose_template
from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import build_nanogpt, gguf, huggingface, nanogpt, torch_file

MESSAGE_LIMIT = 600  # characters


def read(path: str | Path, *, tokenizer: str | None = None, chat_template: str | None = None) -> Checkpoint:
    """The checkpoint at ``path``, of any kind that is served. No code of it is run.

    ``tokenizer``: `gpt2`, a tokenizer.json, a directory that holds one, or a meta.pkl; None: the checkpoint's own.
    ``chat_template``: `dolly`, `none`, or a Jinja file; None: the checkpoint's own.
    Raises CheckpointError, one sentence that begins with the path.
    """
    path = Path(path).expanduser()
    try:
        path = _existing(path)
        checkpoint = _read(path, tokenizer)
        return replace(checkpoint, tokenizer=choose_template(checkpoint.tokenizer, chat_template))
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {one_line(str(exc))}") from exc
    except MemoryError as exc:
        raise CheckpointError(f"{path}: reading it takes more memory than there is") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: it cannot be read: {exc.strerror or exc}") from exc


def one_line(text: str) -> str:
    """One line of bounded length: names and values in it are the file's, and may be anything."""
    text = "".join(character if character.isprintable() else " " for character in text[: 2 * MESSAGE_LIMIT])
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"


def located(path: Path) -> Path:
    """A file inside a Hugging Face directory stands for the directory."""
    inside = path.name == "config.json" or path.name.endswith((".safetensors", ".safetensors.index.json"))
    return path.parent if path.is_file() and inside else path


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError("there is no such file or directory")
    if not path.is_file() and not path.is_dir():
        raise CheckpointError("it is neither a file nor a directory")  # a pipe could be waited for for ever
    return located(path)


def _read(path: Path, tokenizer: str | None) -> Checkpoint:
    if path.is_dir():
        return huggingface.read(path, tokenizer=tokenizer)
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"GGUF"):
        return gguf.read(path, tokenizer=tokenizer)
    if start.startswith(b"PK\x03\x04"):
        saved = torch_file.load(path)
        reader = nanogpt if "model_args" in saved else build_nanogpt
        return reader.read(path, saved, tokenizer=tokenizer)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("it is a Git LFS pointer, not the file itself: run `git lfs pull`")
    if start.startswith(b"\x80"):
        raise CheckpointError(
            "it is a bare pickle, as torch.save wrote before version 1.6: load it and save it again with a newer torch"
        )
    raise CheckpointError("it is no checkpoint: expected are a .pt that torch.save wrote, a .gguf, or a Hugging Face directory")
