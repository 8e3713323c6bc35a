"""OpenAI's and Anthropic's clients for Node, in the versions of node/package-lock.json, installed into .run/."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.missing import missing

PROJECT = Path(__file__).parent / "node"
SCRIPT = PROJECT / "client.test.mjs"


def cannot(message: str) -> None:
    """A skip with its reason; in CI what is missing is a failure."""
    message += ": the clients for Node were NOT tested"
    missing(message)


@pytest.fixture(scope="session")
def client_directory() -> Path:
    """A directory with node_modules, made once for each content of the lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        cannot("no node or no npm here (apt-get install nodejs npm)")
    lock = (PROJECT / "package-lock.json").read_bytes()
    directory = CACHE / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not (directory / "installed").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(PROJECT / name, directory)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            cannot(f"npm ci failed: {done.stderr[-500:]}")
        (directory / "installed").touch()
    return directory


def test_the_lock_file_names_no_registry() -> None:
    assert "http" not in (PROJECT / "package-lock.json").read_text()


def test_the_node_clients_do_all_that_their_tests_promise(client_directory: Path, gateway_url: str, api_key: str) -> None:
    env = os.environ | {"BASE_URL": f"{gateway_url}/v1", "API_KEY": api_key, "CLIENT_DIRECTORY": str(client_directory)}
    command = ["node", "--test", str(SCRIPT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    promised = re.findall(r'^test\("(.+)",', SCRIPT.read_text(), re.MULTILINE)
    passed = re.findall(r"^\s*ok \d+ - (.+)$", done.stdout, re.MULTILINE)
    assert len(promised) >= 10 and set(promised) <= set(passed), done.stdout
