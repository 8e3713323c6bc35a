"""Sets this checkout up: `python3 -m scripts.bootstrap [serve|export] [torch] [test] [packages|all-packages]`.

Makes .venv and installs the locked packages into it; `torch` and `test` install more, and `packages` installs what the tests
need of the system, at the same time. `serve` and `export` first check the settings of those commands. Runs on any Python from
3.7; if that one is unsuitable, it looks for python3.11, python3.12 and python3.13 on PATH. Silent and quick if nothing has
changed. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterable

from serve import python_facts

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"
LOG = ROOT / ".run" / "setup.log"
COMMAND = """#!/bin/sh
# The command `tidegate` of this checkout; written by scripts/bootstrap.py.
bin=$(dirname "$0")
PYTHONPATH=$(cd "$bin/../.." && pwd) exec "$bin/python" -P -m tidegate "$@"
"""


class SetupError(Exception):
    """The set-up cannot continue. The message says what to do."""


def main(words: list[str]) -> None:
    use_fitting_python()
    refuse_unknown_variables()
    if "serve" in words or "export" in words:
        check_settings(starts_servers="serve" in words)
    LOG.parent.mkdir(exist_ok=True)
    packages = start_packages(words)
    try:
        install_all(words)
    finally:
        missing = packages is not None and packages.wait() != 0
    if missing:
        raise SetupError("the tests' packages are missing")


def install_all(words: list[str]) -> None:
    with LOG.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two set-ups at once would unpack into each other's files
        make_venv()
        write_command()
        install("serve")
        if "torch" in words or ({"serve", "export"} & {*words} and takes_torch()):
            install_torch()
        if "test" in words:
            install("test", "--no-compile")  # a run imports few of their modules


def start_packages(words: list[str]) -> subprocess.Popen[bytes] | None:
    script = str(ROOT / "scripts" / "test-packages")
    if "all-packages" in words:
        return subprocess.Popen([script, "all"])
    return subprocess.Popen([script]) if "packages" in words else None


def use_fitting_python() -> None:
    """Returns if this Python is suitable; otherwise continues in another one. Raises SetupError if there is none."""
    here = python_facts.facts()
    if python_facts.platform_problems(here):
        raise SetupError("\n".join(python_facts.platform_problems(here)))
    if not python_facts.python_problems(here):
        return
    if not os.environ.get("PYTHON"):
        for other in other_pythons():
            os.environ["PYTHON"] = other
            os.execv(other, [other, "-m", "scripts.bootstrap", *sys.argv[1:]])
    raise SetupError("\n".join(python_facts.python_problems(here)))


def other_pythons() -> Iterable[str]:
    """The Pythons on PATH that have everything needed."""
    for version in python_facts.SUPPORTED_PYTHONS:
        python = shutil.which("python%d.%d" % version)
        if python:
            asked = subprocess.run(
                [python, "-m", "serve.python_facts"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if asked.returncode == 0 and not python_facts.problems(python_facts.read_facts(asked.stdout.decode())):
                yield python


def refuse_unknown_variables() -> None:
    """Raises SetupError if `make NAME=value` names neither a Makefile variable nor a setting."""
    from gateway.misspelt import did_you_mean
    from serve.setting_table import ALL

    known = {setting.name for setting in ALL} | set(re.findall(r"\$\(([A-Z]+)\)", (ROOT / "Makefile").read_text("utf-8")))
    for name in command_line_variables(os.environ.get("MAKEFLAGS", "")):
        if name not in known:
            raise SetupError(
                f"there is no setting {name!r}{did_you_mean(name, known) or ';'} `make help` lists them all. "
                f"(A variable for another program goes before the command: {name}=… make …)"
            )


def command_line_variables(flags: str) -> list[str]:
    """Of MAKEFLAGS: make's own options, ` -- `, then `NAME=value` with backslashes before what is special."""
    _, _, variables = f" {flags}".partition(" -- ")
    lexer = shlex.shlex(variables, posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.quotes, lexer.commenters = True, "", ""
    return [word.partition("=")[0].rstrip(":+?!") for word in lexer if "=" in word]


def write_command() -> None:
    command = VENV / "bin" / "tidegate"
    if not command.exists() or command.read_text("utf-8") != COMMAND:
        command.write_text(COMMAND, "utf-8")
        command.chmod(0o755)


def takes_torch() -> bool:
    from export.of_torch import is_of_torch

    return is_of_torch(os.environ.get("MODEL_CHECKPOINT", ""))


def check_settings(starts_servers: bool) -> None:
    """Raises SetupError if settings are invalid or servers could not start, before anything is installed."""
    # Imported here, where the Python is known to be new enough for them.
    from gateway.settings import SettingsError
    from serve import preflight
    from serve.settings import Settings

    try:
        settings = Settings.from_environment(os.environ)
        if starts_servers:
            preflight.check(settings)
    except (SettingsError, preflight.PreflightError) as error:
        raise SetupError(str(error)) from error


def make_venv() -> None:
    identity = "%s %s" % (sys.version, os.path.realpath(sys.executable))
    with Stamp("python", identity) as stamp:
        if stamp.is_new:
            print("Making .venv with Python %d.%d.%d" % sys.version_info[:3], flush=True)
            with LOG.open("a") as log:
                made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], stdout=log, stderr=log)
            if made.returncode != 0:
                raise SetupError(f"{sys.executable} could not make a virtual environment; the reason is in {LOG}")


def install(name: str, *options: str) -> None:
    """Installs exactly what requirements/NAME.lock lists: nothing is resolved, so nothing else is downloaded or compiled."""
    lock = REQUIREMENTS / f"{name}.lock"
    content = lock.read_text()
    with Stamp(name, content) as stamp:
        if stamp.is_new:
            arguments = ["--no-deps", "--require-hashes", *options, "-r", str(lock)]
            pip(f"Installing {lock.relative_to(ROOT)}", arguments, content.count("=="))


def install_torch() -> None:
    install("torch")
    requirement = REQUIREMENTS / "torch.in"
    with Stamp("torch-itself", requirement.read_text()) as stamp:
        if stamp.is_new:
            pip("Installing torch, which reads `.pt` files", ["--no-deps", "-r", str(requirement)], 1)
            if subprocess.run([str(VENV / "bin" / "python"), "-c", "import torch"], stderr=subprocess.DEVNULL).returncode != 0:
                # A build for CUDA does not even import without CUDA's libraries.
                pip("Installing the libraries of torch's CUDA build (some gigabytes)", ["-r", str(requirement)], 20)


class Stamp:
    """Records in .venv that a step was done, and with what. It counts as done only if the block succeeds."""

    def __init__(self, name: str, content: str) -> None:
        self._file = VENV / f".{name}.done"
        self._digest = hashlib.sha256(content.encode()).hexdigest()
        self.is_new = not self._file.exists() or self._file.read_text() != self._digest

    def __enter__(self) -> Stamp:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.is_new:
            self._file.write_text(self._digest)


def pip(title: str, arguments: list[str], count: int) -> None:
    """Runs `pip install` and shows its progress. Raises SetupError with the end of its output if it fails."""
    started = time.monotonic()
    progress = Progress(title, count)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--progress-bar=off", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    with LOG.open("a") as log:
        for line in process.stdout or ():
            log.write(line)
            lines.append(line)
            progress.read(line)
    if process.wait() != 0:
        raise SetupError(f"{title} failed. The end of {LOG}:\n{''.join(lines[-15:])}")
    progress.end(time.monotonic() - started)


class Progress:
    """One line that moves in a terminal; elsewhere the title, and the title again when all is done."""

    def __init__(self, title: str, count: int) -> None:
        self._title, self._count, self._done, self._now = title, count, 0, ""
        self._terminal = sys.stdout.isatty()
        self._show() if self._terminal else print(f"{title} ({count} packages)", flush=True)

    def read(self, line: str) -> None:
        """Takes one line of pip's output."""
        beginning = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)|Processing \S*/([\w.]+)-", line)
        size = re.match(r"\s+Downloading .*\(([\d.]+ [kMG]B)\)", line)
        if beginning:
            self._done, self._now = self._done + 1, beginning.group(1) or beginning.group(2)
        elif size:
            self._now += f", {size.group(1)}"
        elif line.startswith("Installing collected"):
            self._now = "unpacking"
        if self._terminal:
            self._show()

    def end(self, seconds: float) -> None:
        print(f"{self._clear()}{self._title}: done in {seconds:.0f} s", flush=True)

    def _show(self) -> None:
        filled = 20 * min(self._done, self._count) // self._count
        bar = "#" * filled + "." * (20 - filled)
        print(f"{self._clear()}{self._title} [{bar}] {self._done}/{self._count} {self._now}"[:200], end="", flush=True)

    def _clear(self) -> str:
        return "\r\033[K" if self._terminal else ""


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetupError as error:
        sys.exit(f"tidegate: {error}")
    except OSError as error:
        sys.exit(
            f"tidegate: {error.filename or ROOT}: {error.strerror or error}; the set-up must be able to write .venv and .run"
        )
    except KeyboardInterrupt:
        sys.exit(130)
