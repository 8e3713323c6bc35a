"""Which checkpoints take torch, that `make serve` installs for them alone."""

from pathlib import Path

import pytest

from export.of_torch import is_of_torch


@pytest.mark.parametrize(
    ("files", "named", "expected"),
    [
        (["log/model_40000.pt"], "log/model_40000.pt", True),
        (["log/model_40000.pt"], "log", True),
        (["chatsft_checkpoints/d20/model_000650.pt"], "", True),  # nanochat's base directory
        (["config.json", "pytorch_model.bin"], "", True),
        (["config.json", "pytorch_model.bin"], "config.json", True),
        (["config.json", "model.safetensors", "training_args.bin"], "", False),
        (["checkpoint-5/model.safetensors", "checkpoint-5/optimizer.pt"], "", False),
        (["lit_model.pth", "model.safetensors", "model_config.yaml"], "model_config.yaml", True),
        (["model.gguf"], "model.gguf", False),
        (["model_00000100.bin"], "", False),  # llm.c's
    ],
)
def test_torch_is_installed_for_what_torch_wrote(files: list[str], named: str, expected: bool, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert is_of_torch(str(tmp_path / named)) is expected


def test_the_demonstration_model_takes_no_torch() -> None:
    assert not is_of_torch("")
