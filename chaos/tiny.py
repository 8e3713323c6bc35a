"""A tiny GPT-2 of random weights: its texts mean nothing, and it starts in a second."""

from pathlib import Path

from testing import ROOT
from testing.models import export

RUN = ROOT / ".run" / "chaos"  # also where the figures of the runs are left
TINY = "tiny-gpt2"


def tiny_repository(directory: Path = RUN) -> Path:
    """A model repository with the model. Nothing is exported where it exists already."""
    checkpoint, repository = directory / f"{TINY}.pt", directory / "model_repository"
    directory.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        from tests.export.samples import build_nanogpt  # here: it needs torch

        build_nanogpt(checkpoint, block_size=1024)
    export(checkpoint, "--precision", "fp32", repository=repository)
    return repository
