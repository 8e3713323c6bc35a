"""The tensors of a Hugging Face directory: from safetensors, or from older torch.save pickles."""

from pathlib import Path

from export.checkpoint import CheckpointError
from export.checkpoints import safetensors_file, torch_file
from export.checkpoints.shards import shards
from export.checkpoints.tensors import RawTensor

# of other programs, or of frameworks that are not read
OTHERS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".ot", ".pt", ".pth")


def tensors(directory: Path) -> dict[str, RawTensor]:
    for file in directory.glob("*.safetensors"):
        _require_content(file)
    found = safetensors_file.directory(directory)
    if found:
        return found
    files = shards(directory, "pytorch_model.bin", "pytorch_model*.bin")
    for file in files:
        _require_content(file)
        found |= torch_file.raw_tensors(torch_file.state_dict(torch_file.load(file), f"its {file.name}"))
    if not found:
        others = sorted(file.name for file in directory.iterdir() if file.suffix in OTHERS)
        holds = f"; it holds {', '.join(others[:6])}" if others else ""
        raise CheckpointError(f"it holds neither *.safetensors nor pytorch_model.bin, which hold the weights{holds}")
    return found


def are_in(directory: Path) -> bool:
    return any(True for pattern in ("*.safetensors", "pytorch_model*.bin") for _ in directory.glob(pattern))


def _require_content(file: Path) -> None:
    """Refuses what often stands in the place of weights."""
    if not file.is_file():
        raise CheckpointError(f"its {file.name} is no file")  # a pipe could be waited for for ever
    with file.open("rb") as content:
        start = content.read(32)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"its {file.name} is a Git LFS pointer, not the file itself: run `git lfs pull`")
    if file.suffix == ".bin" and start.startswith(b"\x80"):
        raise CheckpointError(
            f"its {file.name} is a bare pickle, as torch.save wrote before version 1.6: load the model and save it again, "
            "with save_pretrained(…)"
        )
