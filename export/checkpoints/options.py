"""What a user may say about a checkpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """None: the checkpoint's own."""

    tokenizer: str | None = None  # see `export.text.tokenizer_source.named`
    heads: int | None = None  # of files that do not tell them
