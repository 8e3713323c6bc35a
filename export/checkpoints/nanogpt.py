"""nanoGPT's checkpoints: `model`, `model_args`, `iter_num`, `best_val_loss`, `config`; characters from a `meta.pkl`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import build_nanogpt, gpt2
from export.checkpoints.options import Options
from export.checkpoints.settings import whole
from export.text.tokenizer_source import named
from export.text.tokenizers import token_count


def find(path: Path) -> Path | None:
    """What training leaves in its `out_dir`."""
    file = path / "ckpt.pt"
    return file if file.is_file() else None


def recognises(saved: Mapping[str, Any]) -> bool:
    return "model_args" in saved


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    config = saved["model_args"]
    if not isinstance(config, dict):
        raise CheckpointError("its `model_args` is no dictionary, as nanoGPT saves it")
    rows = whole(config, "vocab_size")
    files = named(options.tokenizer, add_bos=False) if options.tokenizer else _tokenizer(path, saved.get("config"), rows)
    if "bias" not in config:  # before 2023-01-27: only some layers had biases, and GELU was the tanh approximation
        return build_nanogpt.checkpoint(path, saved, config, files, biases=None, activation="gelu_tanh")
    return build_nanogpt.checkpoint(path, saved, config, files, biases=bool(config["bias"]), activation="gelu")


def _tokenizer(path: Path, training: Any, rows: int) -> TokenizerFiles:
    """As in nanoGPT's sample.py: the dataset's meta.pkl, else GPT-2's tokenizer. Rejects a meta.pkl of another size."""
    for meta in _metas(path, training):
        if meta.is_file():
            characters = named(str(meta))
            count = token_count(characters)
            if count == rows or _is_padded(count, rows):
                return characters
            if rows not in gpt2.ROWS:
                raise CheckpointError(
                    f"its vocabulary has {rows} tokens, {meta} names {count}: it is probably another model's; "
                    "name the tokenizer it was trained with (TOKENIZER)"
                )
    return gpt2.tokenizer(rows)


def _is_padded(count: int, rows: int) -> bool:
    """Whether ``rows`` may be a vocabulary of ``count`` characters, rounded up for faster GPU multiplication."""
    return rows % 8 == 0 and count < rows <= 2 * count


def _metas(path: Path, training: Any) -> list[Path]:
    metas = [path.parent / "meta.pkl"]
    dataset = training.get("dataset") if isinstance(training, dict) else None
    if isinstance(dataset, str) and dataset not in ("", ".", "..") and Path(dataset).name == dataset:
        metas.append(path.parent.parent / "data" / dataset / "meta.pkl")  # nanoGPT's own layout: out/ckpt.pt, data/<dataset>/
    return metas
