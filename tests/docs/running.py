"""Runs a block of commands as a reader would, and compares what it prints with what the document shows."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.docs.documents import ROOT, Block
from tests.missing import missing

STATE = {".run", ".git", "log", ".hypothesis", ".pytest_cache"}  # of the checkout: a command gets its own
TOOLS = {"curl ": "curl", "node ": "node", "examples/ask.sh": "jq"}  # what a command that holds the one takes
DIFFERENT_EACH_TIME = {"created", "cached_tokens", "running", "waiting"}


def checkout(directory: Path) -> Path:
    """A directory that looks like the checkout, so that what a command writes is not written there."""
    for entry in ROOT.iterdir():
        if entry.name not in STATE:
            (directory / entry.name).symlink_to(entry)
    (directory / ".run").mkdir()
    (directory / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")  # an HTTP error is a failure
    return directory


def require_tools(commands: str) -> None:
    """Skips where one is missing; in CI that is a failure."""
    for part, tool in TOOLS.items():
        if part in commands and shutil.which(tool) is None:
            message = f"no {tool} here (apt-get install {tool}): {commands.splitlines()[0]} was NOT tried"
            missing(message)


def run(block: Block, directory: Path, url: str, key: str) -> str:
    """What the commands print. Fails where one of them does."""
    require_tools(block.text)
    commands = (
        block.text.replace("http://localhost:5002", url).replace(': KEY"', f': {key}"').replace("Bearer KEY", f"Bearer {key}")
    )
    path = f"{directory / '.venv' / 'bin'}:{os.environ['PATH']}"
    env = os.environ | {"HOME": str(directory), "PATH": path, "TIDEGATE_URL": url, "MY_API_KEY": key}
    script = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(script, cwd=directory, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{block} ended with status {done.returncode}:\n{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def assert_shows(block: Block, printed: str) -> None:
    """`…` in what is shown stands for anything; so do numbers that differ each time."""
    assert block.shown is not None
    if block.language != "json" and not block.shown.lstrip().startswith(("{", "[")):
        assert re.fullmatch(_pattern(block.shown.strip()), printed.strip(), re.DOTALL), (
            f"{block} shows\n{block.shown}\nand prints\n{printed}"
        )
        return
    difference = _difference(json.loads(block.shown), json.loads(printed), "")
    assert difference is None, f"{block}: {difference}; it prints\n{printed}"


def _difference(shown: Any, real: Any, place: str) -> str | None:
    """Where and how ``real`` is not what is shown; None where it is."""
    if isinstance(shown, str) and "…" in shown:
        same = re.fullmatch(_pattern(shown), real if isinstance(real, str) else json.dumps(real), re.DOTALL) is not None
        return None if same else f"{place} is {real!r}, shown is {shown!r}"
    if type(shown) is not type(real):
        return f"{place} is {real!r}, shown is {shown!r}"
    if isinstance(shown, dict):
        if shown.keys() != real.keys() and ("…" not in shown or not (shown.keys() - {"…"}) <= real.keys()):
            return f"{place} has {sorted(real)}, shown are {sorted(shown)}"
        kept = [key for key in shown if key not in DIFFERENT_EACH_TIME | {"…"}]
        return next(filter(None, (_difference(shown[key], real[key], f"{place}.{key}") for key in kept)), None)
    if isinstance(shown, list):
        if len(shown) != len(real):
            return f"{place} has {len(real)} elements, shown are {len(shown)}"
        pairs = enumerate(zip(shown, real, strict=True))
        return next(filter(None, (_difference(one, other, f"{place}[{n}]") for n, (one, other) in pairs)), None)
    return None if shown == real else f"{place} is {real!r}, shown is {shown!r}"


def _pattern(shown: str) -> str:
    return ".*".join(map(re.escape, shown.split("…")))
