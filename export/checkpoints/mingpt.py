"""minGPT's `model.pt`: a bare state dict, with config.json and, for chargpt, the text that its characters come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import bare, gpt2, torch_file
from export.checkpoints.options import Options
from export.checkpoints.settings import whole
from export.checkpoints.tensors import RawTensor
from export.references.gpt2 import FirstMinGpt, Gpt2
from export.text.tokenizer_source import named
from export.text.tokenizers import of_characters, vocabulary_size
from export.text_file import read_object

MODELS = {  # its `model_type`s: layers, heads, width
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}
HEADS = {(layers, width): heads for layers, heads, width in MODELS.values()}
NAMES = gpt2.names()
FIRST = gpt2.Names(  # until June 2022
    embedding="tok_emb",
    positions="pos_emb",
    block="blocks.",
    norms=("ln1", "ln2"),
    qkv=("attn.query", "attn.key", "attn.value"),
    attention_out="attn.proj",
    mlp=("mlp.0", "mlp.2"),
    final_norm="ln_f",
    head="head",
)
TEXT_LIMIT = 1 << 30  # bytes


def find(path: Path) -> Path | None:
    """What training leaves in its `work_dir`, next to a config.json that is not Hugging Face's."""
    file, config = path / "model.pt", path / "config.json"
    return file if file.is_file() and config.is_file() and "model_type" not in read_object(config) else None


def recognises(saved: Mapping[str, Any]) -> bool:
    layers = (f"{NAMES.block}0.attn.c_attn.weight", f"{FIRST.block}0.attn.key.weight")
    return any(isinstance(name, str) and name.endswith(layers) for name in saved)


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    raw = torch_file.raw_tensors(torch_file.state_dict(saved, "it"))
    is_first = "tok_emb.weight" in raw
    if not is_first and "transformer.h.0.attn.bias" not in raw:
        raise CheckpointError(
            "it is a bare state dict without minGPT's masks: whether it is nanoGPT's or build-nanogpt's, which compute "
            "differently, only the `model_args` or `config` tells that they save beside it"
        )
    tensors = {name: _positions(tensor) if name == FIRST.positions else tensor for name, tensor in raw.items()}
    names = FIRST if is_first else NAMES
    sizes = gpt2.sizes(tensors, names)
    known = _heads(path) or HEADS.get((sizes.layers, sizes.width))
    files = named(options.tokenizer, add_bos=False) if options.tokenizer else _tokenizer(path, sizes.rows)
    architecture = gpt2.architecture(
        layers=sizes.layers,
        heads=bare.heads(options, sizes.width, known),
        width=sizes.width,
        mlp_width=sizes.mlp_width,
        vocabulary_size=vocabulary_size(files, sizes.rows),
        context_length=sizes.context_length,
        activation="gelu" if is_first else "gelu_tanh",
    )
    weights = gpt2.named_weights(tensors, architecture, names, rows=sizes.rows, biases=None if is_first else True)
    run = gpt2.reference(FirstMinGpt if is_first else Gpt2, raw, architecture)
    return Checkpoint(path, architecture, weights, files, run)


def _positions(table: RawTensor) -> RawTensor:
    """Drops the leading dimension: the file stores [1, context, width]."""
    if len(table.shape) != 3 or table.shape[0] != 1:
        raise CheckpointError(f"its tensor {FIRST.positions} has shape {list(table.shape)}, expected is [1, positions, width]")
    return RawTensor(table.shape[1:], lambda: table.read()[0])


def _heads(path: Path) -> int | None:
    """The head count from the config.json next to it; None if it has none."""
    file = path.with_name("config.json")
    model = read_object(file).get("model") if file.is_file() else None
    if not isinstance(model, dict):
        return None
    if model.get("n_head") is not None:
        return whole(model, "n_head")
    kind = model.get("model_type")
    return MODELS[kind][1] if isinstance(kind, str) and kind in MODELS else None


def _tokenizer(path: Path, rows: int) -> TokenizerFiles:
    """GPT-2's tokenizer, or the sorted characters of the text that chargpt was trained on."""
    if rows in gpt2.ROWS:
        return named("gpt2")
    way_out = "put the input.txt it was trained on beside it, of whose characters it is, or name its tokenizer (TOKENIZER)"
    folder = path.absolute().parent
    texts = [directory / "input.txt" for directory in (folder, folder.parent.parent)]  # chargpt/out/chargpt/model.pt
    text = next((file for file in texts if file.is_file()), None)
    if text is None:
        raise CheckpointError(f"its vocabulary has {rows} tokens, GPT-2's has 50257: {way_out}")
    characters = _characters(text)
    if len(characters) != rows:
        raise CheckpointError(f"its vocabulary has {rows} tokens, {text} has {len(characters)} characters: {way_out}")
    return of_characters({character: number for number, character in enumerate(sorted(characters))})


def _characters(text: Path) -> set[str]:
    if (size := text.stat().st_size) > TEXT_LIMIT:
        raise CheckpointError(f"{text} is {size} bytes long, allowed are {TEXT_LIMIT}")
    characters: set[str] = set()
    try:
        with text.open(encoding="utf-8") as file:
            while part := file.read(1 << 20):
                characters.update(part)
    except UnicodeDecodeError as exc:
        raise CheckpointError(f"{text} is not UTF-8 text: {exc}") from exc
    return characters
