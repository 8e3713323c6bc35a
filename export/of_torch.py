"""Which checkpoints need torch to be read. Standard library only: this is checked before torch is installed."""

from pathlib import Path


def is_of_torch(checkpoint: str) -> bool:
    """Whether reading it needs torch: it is a torch.save file, or a directory that has only such files."""
    path = Path(checkpoint).expanduser()
    if path.name in ("config.json", "model_config.yaml"):
        path = path.parent
    if not checkpoint or path.is_file():
        state = path.name.startswith(("optimizer", "scheduler", "rng_state", "training_args"))
        return path.name.startswith("pytorch_model") or (path.suffix in (".pt", ".pth", ".ckpt") and not state)
    if not (path / "lit_model.pth").is_file() and (any(path.glob("*.safetensors")) or any(path.glob("*.gguf"))):
        return False
    return any(is_of_torch(str(file)) for depth in ("*", "*/*", "*/*/*") for file in path.glob(depth) if file.is_file())
