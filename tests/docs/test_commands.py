"""Every command that a document shows is run, by this module or by the test that its mark names, or says why it cannot be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import running
from tests.docs.documents import DOCUMENTS, ROOT, Block, blocks, name

# Whole documents whose commands are not run by this module, and why.
ELSEWHERE = {
    "docs/deploy-compose.md": "tests/deploy runs them on a real engine",
    "docs/deploy-kubernetes.md": "they take a cluster; tests/deploy checks the manifests",
    "docs/scaling.md": "they measure for minutes; tests/bench runs the formulas",
    "docs/monitoring.md": "tests/monitoring runs the real Prometheus on its files",
    "docs/performance.md": "they measure for minutes",
    "docs/reliability.md": "they break a stack for minutes; tests/chaos runs shorter ones",
    "README.zh-CN.md": "they are those of README.md: see test_readmes.py",
    "docs/page.md": "tests/page tries the page",
}
# What these documents show are examples of the form: their commands sample, and their answers are those of no model here.
FORM_ONLY = {"docs/api.md"}
OWN_SERVER = "docs/export.md"  # its models are trained, exported and served by test_examples.py

EVERY = [block for path in DOCUMENTS for block in blocks(path) if block.is_command]
HERE = [block for block in EVERY if block.document not in {*ELSEWHERE, OWN_SERVER} and not block.run_by and not block.not_run]
PYTHON = [
    block for path in DOCUMENTS for block in blocks(path) if block.language == "python" and block.document not in ELSEWHERE
]


def test_commands_are_found() -> None:
    """A document whose fences are broken would have none, and this module nothing to run."""
    assert len(HERE) >= 10 and {block.document for block in HERE} >= {"README.md", "docs/api.md", "docs/operations.md"}


@pytest.mark.parametrize("document", ELSEWHERE)
def test_a_document_that_is_excused_is_there(document: str) -> None:
    assert (ROOT / document).is_file()


@pytest.mark.parametrize("block", HERE, ids=str)
def test_a_command_does_what_its_document_shows(block: Block, gateway_url: str, api_key: str, tmp_path: Path) -> None:
    printed = running.run(block, running.checkout(tmp_path), gateway_url, api_key)
    if block.shown and block.document not in FORM_ONLY:
        running.assert_shows(block, printed)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_snippet_runs(block: Block, gateway_url: str, api_key: str) -> None:
    """With `client`, where it goes on with that of a snippet above it."""
    client = f'import openai\nclient = openai.OpenAI(base_url="{gateway_url}/v1", api_key="{api_key}")\n'
    code = client + block.text.replace("http://localhost:5002", gateway_url).replace('"KEY"', f'"{api_key}"')
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("block", [block for block in EVERY if block.run_by], ids=str)
def test_a_command_that_another_test_runs_names_one_that_there_is(block: Block) -> None:
    assert block.run_by and (ROOT / block.run_by).is_file(), f"{block}: there is no {block.run_by}"


def test_make_help_is_where_documents_send_their_readers() -> None:
    """Every `make TARGET` in any document is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        (name(path), target)
        for path in DOCUMENTS
        for target in re.findall(r"(?:`|^|\S=\S+ )make ([a-z][a-z-]*)", path.read_text("utf-8"), re.M)
    }
    assert named and not [one for one in named if one[1] not in targets]
