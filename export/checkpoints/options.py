"""What users may specify about a checkpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """None means the checkpoint's own."""

    tokenizer: str | None = None  # see `export.text.tokenizer_source.named`
    heads: int | None = None  # for files that do not store it
