"""The directory that a training wrote into stands for the checkpoint in it."""

from pathlib import Path

import pytest

from export.checkpoint import CheckpointError
from export.checkpoints import located, read


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
        (
            ["train.py", "out-shakespeare-char/ckpt.pt", "data/shakespeare_char/meta.pkl"],
            "out-shakespeare-char/ckpt.pt",
        ),  # a root
        (["out/ckpt.pt", "out/model.bin", "out/model_q80.bin", "tok512.bin"], "out/ckpt.pt"),
        (["out/finetune/full/final/lit_model.pth", "out/finetune/full/final/model_config.yaml"], "out/finetune/full/final"),
        (["state_dict.pth"], "state_dict.pth"),
    ],
)
def test_a_directory_stands_for_what_training_left_in_it(names: list[str], expected: str, tmp_path: Path) -> None:
    assert located(touched(tmp_path, *names)) == tmp_path / expected


@pytest.mark.parametrize("named", ["my.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_named_is_not_taken_for_another_beside_it(named: str, tmp_path: Path) -> None:
    touched(tmp_path, "ckpt.pt", "m.gguf", named)
    assert located(tmp_path / named) == tmp_path / named


@pytest.mark.parametrize("inside", ["config.json", "model-00001-of-00002.safetensors", "pytorch_model-00002-of-00002.bin"])
def test_a_file_of_a_directory_stands_for_it(inside: str, tmp_path: Path) -> None:
    touched(tmp_path, "config.json", inside)
    assert located(tmp_path / inside) == tmp_path


def test_a_directory_without_a_checkpoint_is_refused_with_what_was_looked_for_and_found(tmp_path: Path) -> None:
    touched(tmp_path, "README.md", "data/input.txt", "optimizer.pt", *(f"z{number}" for number in range(9)))
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: it holds no checkpoint: neither here nor in the directories below is a model's .bin, .ckpt, .pt, .pth or "
        ".gguf, or a directory with config.json (Hugging Face) or lit_model.pth (litgpt); "
        "found here: README.md, data/, optimizer.pt, z0, z1, z2 and 6 more"
    )
    touched(tmp_path, "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: it lacks config.json, as Hugging Face directories have"):
        read(tmp_path)


def test_widths_in_names_are_no_steps(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="name one of them: full_sft_512.pth, full_sft_768.pth"):
        located(touched(tmp_path, "full_sft_512.pth", "full_sft_768.pth"))


def test_of_several_checkpoints_one_has_to_be_named(tmp_path: Path) -> None:
    touched(tmp_path, "out/pretrain_512.pth", "out/full_sft_512.pth")
    said = "holds several checkpoints, name one of them: out/full_sft_512.pth, out/pretrain_512.pth"
    with pytest.raises(CheckpointError, match=said):
        located(tmp_path)
