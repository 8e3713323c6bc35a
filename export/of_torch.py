"""Which checkpoints take torch to be read. Standard library only: it is asked before torch is installed."""

from pathlib import Path


def is_of_torch(checkpoint: str) -> bool:
    """Whether reading it takes torch: it is a file that torch.save wrote, or a directory with such files and no others."""
    path = Path(checkpoint).expanduser()
    if path.name in ("config.json", "model_config.yaml"):
        path = path.parent
    if not checkpoint or path.is_file():
        state = path.name.startswith(("optimizer", "scheduler", "rng_state", "training_args"))
        return path.name.startswith("pytorch_model") or (path.suffix in (".pt", ".pth", ".ckpt") and not state)
    if not (path / "lit_model.pth").is_file() and (any(path.glob("*.safetensors")) or any(path.glob("*.gguf"))):
        return False
    return any(is_of_torch(str(file)) for depth in ("*", "*/*", "*/*/*") for file in path.glob(depth) if file.is_file())
