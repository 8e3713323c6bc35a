"""Which files hold a Hugging Face directory's tensors: a single file, or the shards in an index."""

from pathlib import Path

from export.checkpoint import CheckpointError
from export.text_file import read_object


def shards(directory: Path, single: str, pattern: str) -> list[Path]:
    """``single``: the usual name of a single file; any other that matches ``pattern`` will do. Empty if there is none.

    Raises CheckpointError if the index is invalid or names a file that is not in the directory, or if several files match.
    """
    index = directory / f"{single}.index.json"
    if index.is_file():
        return _indexed(directory, index)
    files = sorted(directory.glob(pattern))
    lone = [file for file in files if file.name == single] or files
    if len(lone) > 1:
        raise CheckpointError(f"it holds several files of weights and no {index.name}: {', '.join(file.name for file in lone)}")
    return lone


def _indexed(directory: Path, index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index.name} is no index of shards with a weight_map")
    names = sorted(set(weight_map.values()))
    for name in names:
        if "\0" in name or Path(name).name != name or not (directory / name).is_file():
            raise CheckpointError(f"{index.name} names the shard {name!r}, which is not in the directory")
    return [directory / name for name in names]
