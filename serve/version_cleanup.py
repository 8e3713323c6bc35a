"""Removes old versions of models once nothing runs on them. Triton notices that their directories are gone and unloads them."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from export.repository import Repository, RepositoryError


class Retirement:
    """Belongs to one `tidegate serve`; use as a context manager. While another serves the repository, nothing is removed."""

    def __init__(self, repository: Path) -> None:
        self._repository = Repository(repository)
        self._lock = repository / ".serving"

    def __enter__(self) -> "Retirement":
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._holder = self._lock.open("a")
        fcntl.flock(self._holder, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.close()

    def retire_all(self) -> None:
        """Removes all but the newest version of every model. Call before anything is started."""
        self._retire({name: self._repository.versions(name)[:-1] for name in self._repository.models()})

    def retire_idle(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """Removes versions older than those that the gateway now serves. ``models``: as reported by its /health."""
        self._retire(
            {
                name: [
                    version
                    for version in self._repository.versions(name)
                    if version < int(model["version"]) and str(version) not in model["older"]
                ]
                for name, model in models.items()
            }
        )

    def _retire(self, old: Mapping[str, list[int]]) -> None:
        if not any(old.values()):
            return
        with self._alone() as alone, suppress(BlockingIOError, RepositoryError):  # an export is writing: try again later
            if alone:
                with self._repository.lock(wait=False):
                    for name, versions in old.items():
                        for version in versions:
                            self._repository.retire(name, version)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Yields whether no other server runs; if so, none starts Triton within the block."""
        try:
            fcntl.flock(self._holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            fcntl.flock(self._holder, fcntl.LOCK_SH)
