"""Checkpoints of nanoGPT: `model`, `model_args`, `iter_num`, `best_val_loss`, `config`; characters from a `meta.pkl`."""

from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints.build_nanogpt import GPT2_ROWS, default_tokenizer, gpt2_checkpoint
from export.checkpoints.settings import whole
from export.tokenizer_source import named
from export.tokenizers import token_count


def read(path: Path, saved: dict[str, Any], *, tokenizer: str | None) -> Checkpoint:
    config = saved["model_args"]
    if not isinstance(config, dict):
        raise CheckpointError("its `model_args` is no dictionary, as nanoGPT saves it")
    files = named(tokenizer) if tokenizer else _tokenizer(path, saved.get("config"), whole(config, "vocab_size"))
    return gpt2_checkpoint(path, saved, config, files, gelu="exact")


def _tokenizer(path: Path, training: Any, rows: int) -> TokenizerFiles:
    """As nanoGPT's sample.py: the dataset's meta.pkl, else GPT-2's tokenizer. A meta.pkl of another size is another's."""
    for meta in _metas(path, training):
        if meta.is_file():
            characters = named(str(meta))
            if token_count(characters) == rows:
                return characters
            if rows not in GPT2_ROWS:
                raise CheckpointError(
                    f"its vocabulary has {rows} tokens, {meta} names {token_count(characters)}: it is another model's"
                )
    return default_tokenizer(rows)


def _metas(path: Path, training: Any) -> list[Path]:
    metas = [path.parent / "meta.pkl"]
    dataset = training.get("dataset") if isinstance(training, dict) else None
    if isinstance(dataset, str) and dataset not in ("", ".", "..") and Path(dataset).name == dataset:
        metas.append(path.parent.parent / "data" / dataset / "meta.pkl")  # nanoGPT's own layout: out/ckpt.pt, data/<dataset>/
    return metas
