"""The directory that a training wrote into stands for the checkpoint in it."""

from pathlib import Path

import pytest

from export.checkpoint import CheckpointError
from export.checkpoints import located


def touched(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    return directory


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ckpt.pt"], "ckpt.pt"),  # nanoGPT's out_dir
        (["out/ckpt.pt"], "out/ckpt.pt"),
        (["model_09999.pt", "model_40000.pt", "log.txt"], "model_40000.pt"),  # build-nanogpt's log
        (["log/model_05000.pt", "log/model_19072.pt"], "log/model_19072.pt"),
        (["model_00000900.bin", "model_00001000.bin", "state_00001000_00000.bin"], "model_00001000.bin"),  # llm.c's
        (["out/full_sft_512.pth", "model/tokenizer.json"], "out/full_sft_512.pth"),  # minimind
        (["model.pth"], "model.pth"),
        (["stories15M.bin", "tokenizer.bin", "tok512.bin"], "stories15M.bin"),  # llama2.c
        (["model-Q4_K_M.gguf"], "model-Q4_K_M.gguf"),
        (["config.json", "model.safetensors", "optimizer.pt"], "."),
    ],
)
def test_a_directory_stands_for_what_training_left_in_it(names: list[str], expected: str, tmp_path: Path) -> None:
    assert located(touched(tmp_path, *names)) == tmp_path / expected


def test_of_several_checkpoints_one_has_to_be_named(tmp_path: Path) -> None:
    touched(tmp_path, "out/pretrain_512.pth", "out/full_sft_512.pth")
    said = "holds several checkpoints, name one of them: out/full_sft_512.pth, out/pretrain_512.pth"
    with pytest.raises(CheckpointError, match=said):
        located(tmp_path)
