"""A Triton model repository on disk: versions are added atomically, and the same export is not made twice."""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG = "config.pbtxt"
VERSION = re.compile("[1-9][0-9]*")  # the name of a version's directory


def fingerprint(sources: list[Path], settings: Mapping[str, object]) -> str:
    """SHA-256 of everything that determines an export: the files' names, sizes and mtimes, the settings, the exporter's source.

    Contents are not read: hashing a checkpoint of gigabytes would take longer than a start may.
    """
    package = Path(__file__).parent
    exporter = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:  # templates and texts count too
            exporter.update(path.read_bytes())
    files = []
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            status = path.stat() if path.exists() else path.lstat()  # an export does not read dangling links
            files.append([path.name, status.st_size, status.st_mtime_ns])
    identity = {"exporter": exporter.hexdigest(), "files": files, "settings": settings}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


class RepositoryError(Exception):
    """The repository cannot be written. The message is one sentence that starts with its path."""


@contextmanager
def writing(repository: Path) -> Iterator[None]:
    """For blocks that only write there: turns an OSError into a RepositoryError."""
    try:
        yield
    except OSError as exc:
        way_out = ": make room there" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RepositoryError(f"{repository} cannot be written: {exc}{way_out}") from exc


class Repository:
    """A directory of models. Only the holder of ``lock`` writes; readers (Triton) always see complete models."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def versions(self, name: str) -> list[int]:
        """In ascending order; empty if there is no such model."""
        directory = self.path / name
        children = directory.iterdir() if directory.is_dir() else ()
        return sorted(int(child.name) for child in children if child.is_dir() and VERSION.fullmatch(child.name))

    def models(self) -> list[str]:
        return sorted(path.parent.name for path in self.path.glob("*/config.pbtxt"))

    def card_of(self, name: str) -> dict[str, Any]:
        """The model card of the newest version; empty if there is none."""
        try:
            card = self.path / name / str(self.versions(name)[-1]) / "model_card.json"
            return dict(json.loads(card.read_text(encoding="utf-8")))
        except (IndexError, OSError, ValueError, TypeError):
            return {}

    def fingerprint_of(self, name: str) -> str | None:
        """Of the newest version; None if there is none."""
        return self.card_of(name).get("fingerprint")

    @contextmanager
    def lock(self, *, wait: bool = True) -> Iterator[None]:
        """Waits until no other export writes here, then removes what crashed ones left behind.

        The kernel releases a dead holder's lock. Raises RepositoryError, or without ``wait`` BlockingIOError if it is held.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not wait:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with writing(self.path):
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._clear_workshop()
            yield
        finally:
            os.close(handle)

    @contextmanager
    def adding_version(self, name: str, config: str) -> Iterator[Path]:
        """Yields an empty directory that becomes the model's next version if the block succeeds; otherwise nothing changes.

        The previous version is kept for sequences still running on it; older ones are removed. Requires ``lock``. Raises
        RepositoryError.
        """
        versions = self.versions(name)
        kept = versions[-1:] if self.fingerprint_of(name) else []  # a model we did not export is replaced entirely
        version = self._workshop / "new" / name / str(versions[-1] + 1 if versions else 1)
        try:
            with writing(self.path):
                version.mkdir(parents=True)
            yield version
            with writing(self.path):
                _flush(version)
                for old in versions[:-1] if kept else []:
                    self._retire(name, old)
                self._put(version, config, kept)
        finally:
            self._clear_workshop()

    def retire(self, name: str, version: int) -> None:
        """Removes an old version, atomically for readers. Requires ``lock``. Raises RepositoryError."""
        with writing(self.path):
            self._retire(name, version)
        self._clear_workshop()

    def remove(self, name: str) -> None:
        """Removes a model with all its versions, atomically for readers. Requires ``lock``. Raises RepositoryError."""
        with writing(self.path):
            removed = self._workshop / "new" / name
            removed.parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).rename(removed)
        self._clear_workshop()

    @property
    def _workshop(self) -> Path:
        """Where a model is built: next to the repository, because Triton treats any directory in it, even hidden, as a model.

        Only if the repository is itself a mount point, or its parent is not writable, it is inside: renames cannot cross file
        systems.
        """
        parent = self.path.parent
        outside = not _is_mount_point(self.path) and os.access(parent, os.W_OK)
        return (parent if outside else self.path) / f".{self.path.name}.export"

    def _clear_workshop(self) -> None:
        retired = self._workshop / "retired"
        for model in retired.iterdir() if retired.is_dir() else ():
            if not (self.path / model.name).exists():  # _exchange was interrupted between its two renames
                model.rename(self.path / model.name)
        shutil.rmtree(self._workshop, ignore_errors=True)

    def _retire(self, name: str, version: int) -> None:
        retired = self._workshop / "new" / f"{name}.{version}"  # a name that no model uses there
        retired.parent.mkdir(parents=True, exist_ok=True)
        (self.path / name / str(version)).rename(retired)

    def _put(self, version: Path, config: str, kept: list[int]) -> None:
        """Moves a finished version into its model.

        If the configuration is unchanged, that is one rename, and Triton leaves the previous version loaded. Otherwise the
        whole model is replaced, with the previous version hard-linked into it; Triton then reloads that version.
        """
        partial, model = version.parent, self.path / version.parent.name
        if kept and (model / CONFIG).read_bytes() == config.encode():
            version.rename(model / version.name)
            return
        for old in kept:
            shutil.copytree(model / str(old), partial / str(old), copy_function=os.link)
        (partial / CONFIG).write_text(config, encoding="utf-8")
        _flush(partial)
        self._exchange(partial, model)

    def _exchange(self, partial: Path, model: Path) -> None:
        """Replaces ``model`` by ``partial``: atomically if the file system can, else in two renames that can be undone."""
        if not model.exists():
            partial.rename(model)
        elif not _swap(partial, model):
            retired = self._workshop / "retired" / model.name
            retired.parent.mkdir()
            model.rename(retired)
            partial.rename(model)


def _is_mount_point(path: Path) -> bool:
    """Whether something is mounted there, including a bind mount of the same file system (as in containers)."""
    if path.stat().st_dev != path.parent.stat().st_dev:
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    escaped = str(path.resolve()).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.split()[4] == escaped for line in mounts)


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two directories atomically (renameat2 with RENAME_EXCHANGE). Returns False if that is not supported."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0


def _flush(directory: Path) -> None:
    """Syncs every file to disk: after a power cut, a rename could otherwise survive without the data."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
