"""GGUF files, as written by llama.cpp's converter: a single file, or split into several."""

from pathlib import Path

from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints.gguf import file, tokenizer
from export.checkpoints.gguf.families import family_of
from export.checkpoints.gguf.layout import EMBEDDING, architecture, weights
from export.checkpoints.options import Options
from export.references.gguf import reference
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size

MAGIC = b"GGUF"
NO_MODEL = "mmproj"  # how the names of llama.cpp's image encoders begin


def recognises(start: bytes, path: Path) -> bool:
    return start.startswith(MAGIC)


def find(directory: Path) -> Path | None:
    """The only model in the directory, or the first part of a split one. Raises CheckpointError if there are several."""
    files = sorted(path for path in directory.glob("*.gguf") if path.is_file() and not path.name.startswith(NO_MODEL))
    models = {file.unsplit(path.name) for path in files}
    if len(models) > 1:
        raise CheckpointError(f"{directory.name} holds several GGUF models, name one of them: {', '.join(sorted(models))}")
    return files[0] if files else None


def read(path: Path, options: Options) -> Checkpoint:
    metadata, tensors = file.read(path)
    family = family_of(metadata, tensors)
    if EMBEDDING not in tensors:
        raise CheckpointError(f"it lacks the tensor {EMBEDDING}")
    files = named(options.tokenizer) if options.tokenizer else tokenizer.build(metadata)
    vocabulary = vocabulary_size(files, tensors[EMBEDDING].shape[0])
    shape = architecture(metadata, tensors, family, vocabulary)
    run = reference(metadata, tensors)
    return Checkpoint(path, shape, weights(metadata, tensors, family, shape), files, lambda tokens: run(tokens)[:, :vocabulary])
