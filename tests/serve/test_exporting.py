"""What an export replaces."""

import json
from pathlib import Path

import pytest

from serve import exporting
from serve.settings import Settings


def test_a_start_without_a_checkpoint_never_replaces_somebody_elses_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = tmp_path / "mine" / "1"
    version.mkdir(parents=True)
    (version / "model_card.json").write_text(json.dumps({"parameters": {"checkpoint": "model_40000.pt"}}))
    assert (
        exporting.export_model(Settings.from_environment({"MODEL_NAME": "mine", "MODEL_REPOSITORY": str(tmp_path)})) == "mine"
    )
    assert "mine stays as it was exported" in capfd.readouterr().out
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["1"]


def test_an_export_alone_says_the_models_name_and_how_to_serve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    monkeypatch.setenv("MODEL_NAME", "mine")
    monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path))
    assert exporting.run([]) is None
    assert capsys.readouterr().out.endswith("\nIts name is mine. To serve it: MODEL_NAME=mine make serve\n")
