"""A Triton model repository on disk: models are replaced whole or not at all, and the same export is not made twice."""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
CHECKPOINT_SUFFIXES = {".pt", ".pth", ".gguf", ".bin", ".ckpt", ".safetensors"}


def default_name(checkpoint: Path) -> str:
    """`log/model_40000.pt` → `model_40000`, `SmolLM2-135M-Instruct.Q4_1.gguf` → `smollm2-135m-instruct-q4_1`."""
    stem = checkpoint.stem if checkpoint.suffix in CHECKPOINT_SUFFIXES else checkpoint.name
    return re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-") or "model"


def fingerprint(sources: list[Path], settings: Mapping[str, object]) -> str:
    """SHA-256 over what decides an export: each file's name, size and time of change, the settings, and the exporter's own source.

    Contents are not read: a checkpoint of gigabytes would take longer to hash than a start may take.
    """
    package = Path(__file__).parent
    exporter = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.glob("*.txt")]):
        exporter.update(path.read_bytes())
    files = []
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            status = path.stat()
            files.append([path.name, status.st_size, status.st_mtime_ns])
    identity = {"exporter": exporter.hexdigest(), "files": files, "settings": settings}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


class Repository:
    """A directory of models. Only the holder of ``lock`` writes; readers (Triton) always see whole models."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def fingerprint_of(self, name: str) -> str | None:
        """The fingerprint in the card of a model that lies here; None where there is none."""
        try:
            return json.loads((self.path / name / "1" / "model_card.json").read_text())["fingerprint"]
        except (OSError, ValueError, KeyError):
            return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Waits until no other export writes here, then clears away what dead ones have left. The kernel frees a dead holder's lock."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._clear_leftovers()
            yield
        finally:
            os.close(handle)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yields an empty directory that takes the model's place when the block ends well; else the old model stays. Needs ``lock``."""
        partial = self._workshop / name
        partial.mkdir(parents=True)
        try:
            yield partial
            _flush(partial)
            self._exchange(partial, self.path / name)
        finally:
            shutil.rmtree(self._workshop, ignore_errors=True)

    @property
    def _workshop(self) -> Path:
        """Where a model is made: beside the repository, because Triton takes any directory in it, hidden or not, for a model.

        Only a repository that is a mount point of its own has its workshop inside: renames cannot leave a file system.
        """
        parent = self.path.parent
        outside = parent.stat().st_dev == self.path.stat().st_dev and os.access(parent, os.W_OK)
        return (parent if outside else self.path) / f".{self.path.name}.export"

    def _clear_leftovers(self) -> None:
        retired = self._workshop / "retired"
        for model in retired.iterdir() if retired.is_dir() else ():
            if not (self.path / model.name).exists():  # killed between the two renames of _exchange
                model.rename(self.path / model.name)
        shutil.rmtree(self._workshop, ignore_errors=True)

    def _exchange(self, partial: Path, model: Path) -> None:
        """Puts ``partial`` in the model's place: in one step where the file system can, else in two with a way back."""
        if not model.exists():
            partial.rename(model)
        elif not _swap(partial, model):
            retired = self._workshop / "retired" / model.name
            retired.parent.mkdir()
            model.rename(retired)
            partial.rename(model)


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two directories atomically (renameat2 with RENAME_EXCHANGE). False where that is not supported."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0


def _flush(directory: Path) -> None:
    """Waits until every file is on the disk: a rename may otherwise outlive a power cut that its files do not."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
