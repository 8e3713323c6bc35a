"""Exports, as users make them."""

import subprocess
import sys
from pathlib import Path

from testing import ROOT


def export(*arguments: str | Path, repository: Path) -> None:
    """Runs ``python -m export``; AssertionError with what it said where it fails."""
    command = [sys.executable, "-m", "export", *map(str, arguments), "--repository", str(repository)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
