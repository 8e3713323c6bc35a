"""Which files in a checkpoint's directory may be read: only its own.

A link can point to any file on the machine, whose content would become part of the model: every API key can read a chat
template.
"""

from pathlib import Path

from export.checkpoint import CheckpointError

READ = {
    ".json",
    ".jinja",
    ".safetensors",
    ".txt",
    ".bin",
    ".model",
    ".tiktoken",
    ".yaml",
    ".pth",
}  # every suffix that is read


def require_own_files(directory: Path) -> None:
    """Raises CheckpointError if a readable file is a link to somewhere else.

    Hugging Face's cache links from `models--…/snapshots/…` to `models--…/blobs`: those count as the directory's own files.
    """
    own = directory.resolve()
    allowed = [own, *(repository / "blobs" for repository in own.parents if repository.name.startswith("models--"))]
    for entry in sorted(directory.iterdir()):
        if entry.suffix in READ and entry.is_symlink() and entry.is_file() and not _is_within(entry.resolve(), allowed):
            way_out = "put the file itself there"
            raise CheckpointError(f"its {entry.name} is a link to a file outside of the directory: {way_out}")


def _is_within(file: Path, directories: list[Path]) -> bool:
    return any(file.is_relative_to(directory) for directory in directories)
