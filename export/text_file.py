"""Reads text files of a checkpoint. Raises CheckpointError unless they are regular UTF-8 files of limited size."""

import json
from pathlib import Path
from typing import Any

from export.checkpoint import CheckpointError

TEXT_LIMIT = 16 << 20  # bytes; parsed JSON takes up to 25 times that


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is no file")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"its {path.name} is {size} bytes long, allowed are {limit}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise CheckpointError(f"its {path.name} is not UTF-8 text: {exc}") from exc


def read_object(path: Path, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"its {path.name} is not valid JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise CheckpointError(f"its {path.name} is no JSON object")
    return content


def is_unicode(text: str) -> bool:
    """Whether it can be encoded at all: JSON can contain lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
