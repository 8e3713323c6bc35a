"""From training to answer, as docs/export.md tells it: three trainings, `make serve`, `make export` beside it, answers.

The trainings are those of examples/, with fewer sentences to learn; the client examples are run by test_commands.py.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs import running
from tests.docs.documents import ROOT, Block, blocks
from tests.docs.test_commands import OWN_SERVER
from tests.serve.conftest import MakeServe

NAMES = ("dolly", "characters", "tide-llama")
LEARNED = {"dolly": 4, "llama": 8}  # records of examples/tides.jsonl: with those that are asked, learned in seconds
SHOWN = [block for block in blocks(ROOT / OWN_SERVER) if block.is_command and not block.run_by and not block.not_run]


def train(example: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", f"examples.{example}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all three checkpoints."""
    directory = tmp_path_factory.mktemp("trained")
    lines = (ROOT / "examples" / "tides.jsonl").read_text("utf-8").splitlines(keepends=True)
    for name, count in LEARNED.items():
        (directory / f"{name}.jsonl").write_text("".join(lines[:count]), "utf-8")
    train("dolly_gpt2", directory / "dolly.pt", "--records", directory / "dolly.jsonl")
    train("characters_gpt2", directory / "characters" / "ckpt.pt", "--steps", "250")
    train("llama_huggingface", directory / "tide-llama", "--records", directory / "llama.jsonl")
    return directory


@pytest.fixture(scope="module")
def served(trained: Path, api_key: str) -> Iterator[str]:
    """`make serve` of the first one, and `make export` of the others while it runs; nothing of them stays."""
    serve = MakeServe(MODEL_CHECKPOINT=str(trained / "dolly.pt"), CHAT_TEMPLATE="dolly", SLOTS="2")
    try:
        serve.wait_for("  try ")
        make_export(MODEL_CHECKPOINT=str(trained / "characters" / "ckpt.pt"))
        make_export(MODEL_CHECKPOINT=str(trained / "tide-llama"))
        url = f"http://127.0.0.1:{serve.port}"
        wait_until_listed(url, api_key)
        yield url
    finally:
        serve.press_ctrl_c()
        serve.wait_ended(20)
        for name in NAMES:
            shutil.rmtree(ROOT / "model_repository" / name, ignore_errors=True)


def make_export(**settings: str) -> None:
    done = subprocess.run(["make", "export"], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_until_listed(url: str, key: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        models = httpx.get(f"{url}/v1/models", headers={"X-API-Key": key}, timeout=10).json()["data"]
        if {model["id"] for model in models} >= set(NAMES):
            return
        time.sleep(0.2)
    raise AssertionError(f"not all of {NAMES} are served: {models}")


def test_each_kind_of_checkpoint_has_its_answer() -> None:
    asked = [json.loads(block.text.split("-d '")[1].split("'")[0])["model"] for block in SHOWN if block.shown]
    assert asked == list(NAMES) and len(asked) == len(SHOWN)


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_a_model_answers_as_its_example_shows(block: Block, served: str, api_key: str, tmp_path: Path) -> None:
    running.assert_shows(block, running.run(block, running.checkout(tmp_path), served, api_key))


def test_the_chat_example_holds_a_conversation(gateway_url: str, api_key: str) -> None:
    env = os.environ | {"TIDEGATE_URL": gateway_url, "MY_API_KEY": api_key}
    command = [sys.executable, "-m", "examples.chat"]
    asked = "What is the capital of Japan?\n\n"
    done = subprocess.run(command, cwd=ROOT, env=env, input=asked, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "> The capital of Japan is Tokyo.\n> "), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "examples.stream", "One"],
        ["node", "examples/chat.mjs"],
        ["bash", "-c", "echo One | examples/ask.sh"],
        [sys.executable, "-m", "examples.load", "--requests", "2"],
    ],
    ids=["stream.py", "chat.mjs", "ask.sh", "load.py"],
)
def test_a_client_that_is_refused_says_why_and_fails(command: list[str], gateway_url: str) -> None:
    running.require_tools(f"{' '.join(command)} ")
    env = os.environ | {"TIDEGATE_URL": gateway_url, "MY_API_KEY": "wrong"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Unauthorized. Invalid or missing API Key." in done.stderr
