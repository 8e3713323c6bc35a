"""The view of a model repository that Triton gets: the models to serve, without versions that failed to load.

In polling mode, Triton retries a failed version at every poll, forever, each time with a new process: half a core and endless
log lines. Loading on request would avoid that, but then anyone who can reach Triton's port could load code. So Triton polls a
directory of links, from which a failed version is removed until its files change.
Standard library only: Triton's container includes this file.
"""

import http.client
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_INTERVAL = 0.2  # seconds between scans of the files; Triton polls every 2 s
ASK_INTERVAL = 0.6  # seconds between queries to Triton
JUDGED_AFTER = 5.0  # seconds after which Triton has certainly tried a new link, if it is loading nothing else
TIMEOUT = 5.0  # seconds for Triton's repository index
REFUSAL = "TritonModelException: "  # Triton's prefix of a backend's message

Version = tuple[str, str]  # model and version, by their directory names
Signature = tuple[tuple[str, int, int], ...]  # per file: name, size, mtime


@dataclass
class Trial:
    """A version that is visible to Triton but not yet judged. Until Triton retries it, it keeps reporting the reason for the
    previous files."""

    files: Signature  # when they were linked
    before: str  # the previous reason
    is_loading_older: bool
    judged_from: float
    was_tried: bool = False

    def has_failed(self, state: str, reason: str) -> bool:
        """Whether it has failed, given what Triton reports now. Call it with every report since the link was made."""
        if state == "LOADING":
            self.was_tried = not self.is_loading_older
        elif self.is_loading_older:
            self.is_loading_older, self.before = False, reason
        elif state == "UNAVAILABLE" and reason not in ("", "unloaded"):
            return self.was_tried or reason != self.before or time.monotonic() >= self.judged_from
        return False


class RepositoryView:
    """Keeps ``directory`` in sync with ``repository``, from `start` to `stop` or as a context manager.

    ``port`` is Triton's HTTP port on 127.0.0.1. ``report`` receives a sentence for each version that Triton could not load.
    Models for which ``shows`` returns False are left out; it is called again at every scan.
    """

    def __init__(
        self,
        repository: Path,
        directory: Path,
        port: int,
        report: Callable[[str], None],
        shows: Callable[[str], bool] = lambda model: True,
    ) -> None:
        self.directory = directory
        self._repository = repository
        self.port = port
        self._report = report
        self._shows = shows
        self._shown: dict[Version, Trial] = {}
        self._refused: dict[Version, Signature] = {}
        self._said: dict[Version, tuple[str, str]] = {}  # Triton's last state and reason, also for versions no longer listed
        self._unreadable: set[str] = set()  # models already reported as such
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Call before starting Triton: fills the directory, then keeps it in sync in a thread."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        for memory in (self._shown, self._refused, self._said, self._unreadable):
            memory.clear()  # a new Triton may have more memory available
        self._follow()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=[self._ended], name="repository view", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Call after Triton has ended."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "RepositoryView":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self, ended: threading.Event) -> None:
        next_question = time.monotonic()
        while not ended.wait(LOOK_INTERVAL):
            if time.monotonic() >= next_question:
                next_question = time.monotonic() + ASK_INTERVAL
                with suppress(OSError, http.client.HTTPException, ValueError):  # Triton is starting or ending
                    self._take_away_refused()
            with suppress(OSError):  # an export is writing
                self._follow()

    def _take_away_refused(self) -> None:
        models = _index(self.port)
        said = {(one["name"], one.get("version", "")): (one.get("state", ""), one.get("reason", "")) for one in models}
        self._said |= said
        if any(state == "LOADING" for state, _ in said.values()):  # Triton only looks for new links once that is done
            for trial in self._shown.values():
                trial.judged_from = time.monotonic() + JUDGED_AFTER
        for version, (state, reason) in said.items():
            if version in self._shown and self._shown[version].has_failed(state, reason):
                self._refuse(version, sentence(reason))
        unread = {model for model, _ in said} - {model for model, version in said if version}
        for version, trial in self._shown.items():
            if version[0] in unread and time.monotonic() >= trial.judged_from:
                self._refuse(version, "Triton cannot use the model's config.pbtxt; its log says why")

    def _refuse(self, version: Version, reason: str) -> None:
        self._refused[version] = self._shown[version].files
        self._report(f"{version[0]} version {version[1]} is not served until its files change: {reason}")

    def _follow(self) -> None:
        """Links what is new, and unlinks what is gone or refused."""
        there = self._there()
        room = bool(self._shown.keys() - there)  # unloading frees memory, so retry refused versions
        for version, signature in list(self._refused.items()):
            if room or version not in there or self._signature(version) != signature:
                del self._refused[version]
                self._shown.pop(version, None)  # if still linked, the link stays and a trial of the new files begins
        wanted = there - self._refused.keys()
        for version in self._shown.keys() - wanted:
            del self._shown[version]
        for version in wanted - self._shown.keys():
            state, reason = self._said.get(version, ("", ""))
            judged_from = time.monotonic() + JUDGED_AFTER
            self._shown[version] = Trial(self._signature(version), reason, state == "LOADING", judged_from)
        names = {name for name, _ in wanted}
        for name in names:
            with self._alone(name):
                self._link(name, {version for model, version in wanted if model == name})
        for model in self.directory.iterdir():
            if model.name not in names:
                shutil.rmtree(model)

    def _there(self) -> set[Version]:
        """The versions in the repository. For an unreadable model: the versions that were shown."""
        there: set[Version] = set()
        models = self._repository.iterdir() if self._repository.is_dir() else ()
        for model in (model for model in models if self._shows(model.name)):
            versions = {version for version in self._shown if version[0] == model.name}
            with self._alone(model.name):
                entries = model.iterdir() if _is_model(model) else ()
                versions = {(model.name, entry.name) for entry in entries if _is_version(entry)}
                self._unreadable.discard(model.name)
            there |= versions
        return there

    @contextmanager
    def _alone(self, model: str) -> Iterator[None]:
        """Isolates models: an OSError of one does not affect the others, and is reported once."""
        try:
            yield
        except FileNotFoundError:  # it is being removed right now
            pass
        except OSError as error:
            if model not in self._unreadable:
                self._unreadable.add(model)
                self._report(f"{model} cannot be read: {error.strerror}")

    def _link(self, name: str, versions: set[str]) -> None:
        """Links the model's files and the given versions. A new model appears atomically."""
        model, shown = self._repository / name, self.directory / name
        wanted = {entry.name for entry in model.iterdir() if not _is_version(entry)} | versions
        place = shown
        if not shown.exists():
            place = self.directory.with_name(f"{self.directory.name}.new")
            shutil.rmtree(place, ignore_errors=True)  # left over from an interrupted call
            place.mkdir()
        have = {entry.name for entry in place.iterdir()}
        for entry in have - wanted:
            (place / entry).unlink()
        for entry in wanted - have:
            (place / entry).symlink_to(model / entry)
        if place != shown:
            place.rename(shown)

    def _signature(self, version: Version) -> Signature:
        model = self._repository / version[0]
        files, found = [model / "config.pbtxt"], []
        with suppress(OSError):
            files += sorted((model / version[1]).rglob("*"))
        for file in files:
            with suppress(OSError):  # it is being replaced right now
                status = os.stat(file)
                found.append((file.name, status.st_size, status.st_mtime_ns))
        return tuple(found)


def sentence(reason: str) -> str:
    """Strips Triton's wrapping and the Python traceback from a backend's message."""
    own = reason.partition(REFUSAL)[2].replace("\\n", "\n").partition("\n\nAt:")[0].strip()
    return " ".join((own or reason).split())


def _is_model(entry: Path) -> bool:
    with suppress(PermissionError):  # not ours: lost+found, or a directory that an export is writing
        return (entry / "config.pbtxt").exists()
    return False


def _is_version(entry: Path) -> bool:
    return entry.name.isdecimal() and entry.is_dir()


def _index(port: int) -> list[dict[str, Any]]:
    """Every version that Triton knows, with its state. http.client ignores proxy settings in the environment."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", "/v2/repository/index", "{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        models: list[dict[str, Any]] = json.load(answer) if answer.status == 200 else []
        return models
    finally:
        connection.close()
