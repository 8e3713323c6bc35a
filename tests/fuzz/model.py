"""A tiny exported model of characters."""

from pathlib import Path

from export.exporter import ExportSettings, export
from tests.export import samples


def tiny_model(folder: Path) -> Path:
    """Its graph, in ``folder``."""
    (folder / "checkpoint").mkdir()
    samples.nanogpt(folder / "checkpoint" / "ckpt.pt")
    export(ExportSettings(folder / "checkpoint" / "ckpt.pt", folder / "models", "tiny", "fp32"))
    return folder / "models" / "tiny" / "1" / "model.onnx"
