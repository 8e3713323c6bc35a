"""The set-up says at once what cannot work, and names a way out."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve import python_facts
from serve.python_facts import Facts

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = Facts("Linux", "x86_64", (2, 36), (3, 11), debian=True, has_venv=True, libpython_directory="/usr/lib/x86_64-linux-gnu")


def test_this_machine_has_no_problems() -> None:
    assert python_facts.problems(python_facts.facts()) == []


@pytest.mark.parametrize("version", [(3, 11), (3, 12)])
def test_supported_pythons_have_no_problems(version: tuple[int, int]) -> None:
    assert python_facts.problems(GOOD._replace(python=version)) == []


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (GOOD._replace(system="Darwin", glibc=()), ["Darwin x86_64", "docker compose up"]),
        (GOOD._replace(architecture="aarch64"), ["Linux aarch64", "docker compose up"]),
        (GOOD._replace(glibc=()), ["another C library", "docker compose up"]),
        (GOOD._replace(glibc=(2, 31)), ["glibc 2.35 or newer, not 2.31", "docker compose up"]),
        (GOOD._replace(python=(3, 10)), ["Python 3.10 does not fit", "python3.11", "PYTHON=", "docker compose up"]),
        (GOOD._replace(python=(3, 14)), ["Python 3.14 does not fit", "python3.11", "PYTHON=", "docker compose up"]),
        (GOOD._replace(has_venv=False), ["apt-get install python3.11-venv", "PYTHON="]),
        (GOOD._replace(has_venv=False, debian=False), ["venv and ensurepip", "PYTHON="]),
        (GOOD._replace(libpython_directory=None), ["apt-get install libpython3.11`", "PYTHON="]),
        (GOOD._replace(libpython_directory=None, debian=False), ["libpython3.11.so.1.0", "--enable-shared", "PYTHON="]),
    ],
)
def test_what_cannot_work_is_one_sentence_with_the_way_out(facts: Facts, names: list[str]) -> None:
    (problem,) = python_facts.problems(facts)
    for name in names:
        assert name in problem


def test_all_missing_debian_packages_are_named_in_one_command() -> None:
    (problem,) = python_facts.problems(GOOD._replace(has_venv=False, libpython_directory=None))
    assert "`apt-get install python3.11-venv libpython3.11`" in problem


def test_facts_survive_the_way_from_another_python() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve.python_facts"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert python_facts.read_facts(printed) == python_facts.facts()


@pytest.mark.parametrize("file", ["scripts/bootstrap.py", "serve/python_facts.py", "serve/__init__.py"])
def test_old_pythons_can_read_the_set_up_far_enough_to_be_refused(file: str) -> None:
    ast.parse((ROOT / file).read_text(), feature_version=(3, 7))


def test_a_fitting_python_on_path_takes_over_from_one_that_does_not_fit(tmp_path: Path) -> None:
    """`python3` is refused by its version alone; python3.11, python3.12 or python3.13, found on PATH, makes the set-up."""
    fitting = tmp_path / f"python3.{sys.version_info[1]}"
    fitting.symlink_to(sys.executable)
    script = (
        "import os, sys; from scripts import bootstrap; from serve import python_facts\n"
        "python_facts.facts = lambda facts=python_facts.facts(): facts._replace(python=(3, 14))\n"
        "os.execv = lambda program, arguments: sys.exit(f'went on in {program}')\n"
        "bootstrap.use_fitting_python()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"} | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stderr.strip() == f"went on in {fitting}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment | {"PYTHON": "python3"}, capture_output=True, text=True
    )
    assert "Python 3.14 does not fit" in done.stderr  # PYTHON was named: no other takes its place


def test_a_setup_that_may_not_write_says_where_in_one_line(tmp_path: Path) -> None:
    for name in ("export", "gateway", "requirements", "scripts", "serve"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".run").write_text("a file where a directory should be")  # permissions would not stop root
    command = [sys.executable, "-m", "scripts.bootstrap"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (said,) = ended.stderr.splitlines()
    assert said == f"tidegate: {tmp_path / '.run'}: File exists; the set-up must be able to write .venv and .run"
