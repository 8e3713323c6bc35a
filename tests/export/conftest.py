"""What the tests of exports and of repositories share: a model that is there already, and all files of a directory."""

from pathlib import Path

import pytest

NAME = "tiny"


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def old_model(tmp_path: Path) -> Path:
    """A repository with a model of an earlier release in it."""
    model = tmp_path / "models" / NAME
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text("old")
    (model / "MODEL_CARD.md").write_text("old")
    (model / "1" / "model.onnx").write_text("old")
    (model / "1" / "model_card.json").write_text('{"fingerprint": "old"}')
    return tmp_path / "models"
