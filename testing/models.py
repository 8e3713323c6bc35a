"""Exports, as users make them."""

import subprocess
import sys
from pathlib import Path

from export.repository import Repository
from testing import ROOT


def export(*arguments: str | Path, repository: Path) -> None:
    """Runs ``python -m export`` and leaves no older version there: Triton would load what an export of earlier source made.

    AssertionError with what it said where it fails."""
    command = [sys.executable, "-m", "export", *map(str, arguments), "--repository", str(repository)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    kept = Repository(repository)
    with kept.lock():
        for name in kept.models():
            for version in kept.versions(name)[:-1]:
                kept.retire(name, version)
