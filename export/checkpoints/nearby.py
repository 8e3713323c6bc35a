"""Finds tokenizers that projects store near their checkpoints."""

import os
from collections.abc import Iterable
from pathlib import Path

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text.tokenizer_source import from_directory, named
from export.text.tokenizers import token_count, vocabulary_size

FOLDERS = ("", "model", "model/minimind_tokenizer", "tokenizer", "tokenizer_k", "chatglm_tokenizer", "data")
WATCHED = (  # names of tokenizers, templates and configurations in all projects
    "tokenizer*", "tok*.model", "tok*.bin", "*.jinja", "*.tiktoken", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "meta.pkl", "*/meta.pkl", "input.txt", "generation_config.json",
)  # fmt: skip
LEVELS = 3  # the checkpoint's directory and its parents, one of which is the project's root


def tokenizer(checkpoint: Path, names: Iterable[str], rows: int) -> tuple[Path, TokenizerFiles]:
    """The nearest of these files and its tokenizer. One with more than ``rows`` tokens belongs to another model."""
    names = [*names]
    above = Path(os.path.abspath(checkpoint)).parents[:LEVELS]
    too_large: TokenizerFiles | None = None
    for file in (directory / name for directory in above for name in names):
        if file.is_file():
            files = _read(file, rows)
            if token_count(files) <= rows:
                return file, files
            too_large = too_large or files
    if too_large is not None:
        vocabulary_size(too_large, rows)  # raises, saying how they differ
    raise CheckpointError(
        f"its tokenizer of {rows} tokens is missing: looked for {', '.join(names)} beside it and in the directories above; "
        "name it by TOKENIZER"
    )


def watched(checkpoint: Path) -> list[Path]:
    """What may be read near a checkpoint, in any project's layout."""
    directories = (above / folder for above in Path(os.path.abspath(checkpoint)).parents[:LEVELS] for folder in FOLDERS)
    return sorted({file for directory in directories for name in WATCHED for file in directory.glob(name)})


def _read(file: Path, rows: int) -> TokenizerFiles:
    return from_directory(file.parent, rows=rows) if file.suffix == ".json" else named(str(file))
