"""`tidegate`, as it is typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bootstrap import command_line_variables
from tests.conftest import ROOT
from tidegate.commands import run

COMMANDS = ("serve", "export", "models", "remove", "keys", "check", "version")


def tidegate(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_helps_versions_and_refusals_import_nothing_that_takes_long() -> None:
    """Each runs where only the standard library is to be found."""
    asked = [[*words, "--help"] for words in ([], *([name] for name in COMMANDS), ["keys", "create"])]
    for module in ("tidegate", "gateway"):
        for arguments in (*(asked if module == "tidegate" else [["--help"]]), ["--version"], ["--no-such-flag"]):
            command = [sys.executable, "-S", "-m", module, *arguments]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == (2 if "--no-such-flag" in arguments else 0), done.stderr
            assert done.stdout.startswith(("usage: ", "tidegate 0.")) or done.stderr.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serv"], "there is no command 'serv'; did you mean serve?"),
        (["serve", "--prot", "5003"], "unknown argument '--prot'; did you mean --port?"),
        (["serve", "--model-chekpoint=x"], "unknown argument '--model-chekpoint=x'"),
        (["serve", "--model", "x"], "unknown argument '--model'; did you mean --models?"),  # no abbreviations
        (["serve", "one.pt", "two.pt"], "unknown argument 'two.pt'"),
        (["export", "--slots", "4"], "unknown argument '--slots'"),
        (["remove"], "the following arguments are required: NAME"),
        (["keys", "creat"], "invalid choice: 'creat'"),
        (["keys", "create", "alice", "--expire", "30d"], "unknown argument '--expire'; did you mean --expires?"),
    ],
)
def test_what_is_unknown_is_refused_with_what_was_perhaps_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_flag_wins_over_its_variable(tmp_path: Path) -> None:
    found = tidegate("check", "--port", "70001", "--model-repository", tmp_path, PORT="70002")
    assert found.returncode == 1
    assert "PORT is '70001'; it must be a whole number from 1 to 65535" in found.stdout


def test_check_says_what_a_start_would_find_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").touch()
    where: list[str | Path] = ["--model-repository", tmp_path / "models", "--port", "5999"]
    good = tidegate("check", tmp_path / "mine.pt", *where)
    assert good.returncode == 0 and "NO " not in good.stdout, good.stdout
    assert "mine.pt, served as mine" in good.stdout and str(tmp_path / "models") in good.stdout
    bad = tidegate("check", *where, "--models", "other", "--host", "203.0.113.7")
    assert bad.returncode == 1 and "2 of these would stop a start." in bad.stdout
    assert "MODELS has 'other', which is not in" in bad.stdout and "HOST is '203.0.113.7'" in bad.stdout


def test_variables_of_make_are_read_whatever_they_hold() -> None:
    assert command_line_variables("s -j2 --jobserver-auth=3,4 -- F:=3 A=a\\\\b\\ --\\ D=3 C=it's\\ $$HOME\\ #\\ x") == [
        "F",
        "A",
        "C",
    ]
    assert command_line_variables("ks") == command_line_variables("") == []


def test_a_misspelt_variable_of_make_is_refused_before_anything_is_done() -> None:
    for target, variable, said in (
        ("serve", "MODEL_CHEKPOINT=x", "there is no setting 'MODEL_CHEKPOINT'; did you mean MODEL_CHECKPOINT?"),
        ("bench", "QUCK=1", "there is no setting 'QUCK'; did you mean QUICK?"),
    ):
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # make itself runs the tests
        done = subprocess.run(["make", target, variable], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and said in done.stderr and not done.stdout
