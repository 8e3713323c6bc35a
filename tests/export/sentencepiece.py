"""Small tokenizers that fall back to bytes: SentencePiece's own file, and a Llama with what transformers saves of one."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from tests.export.samples import Logits, hf_llama

proto: Any = import_module("transformers.utils.sentencepiece_model_pb2_new")
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = "▁abcdefghijklmnopqrstuvwxyzABT.,!\n你好é"
MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "t"), ("i", "d"), ("▁t", "id"), ("▁tid", "e"), ("▁", "▁"), ("你", "好")]


def write_model(path: Path, pieces: list[tuple[str, float, int]], **fields: object) -> Path:
    """A `.model` of pieces with scores and types behind <unk>, <s> and </s>; ``fields`` of TrainerSpec or NormalizerSpec."""
    model = proto.ModelProto()
    for piece, score, kind in [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *pieces]:
        model.pieces.add(piece=piece, score=score, type=kind)
    spec = {"model_type": 2, "add_dummy_prefix": True, "remove_extra_whitespaces": False} | fields
    for name, value in spec.items():
        part = model.normalizer_spec if name in proto.NormalizerSpec.DESCRIPTOR.fields_by_name else model.trainer_spec
        setattr(part, name, value)
    path.write_bytes(model.SerializeToString())
    return path


def sentencepiece_tokenizer() -> Tokenizer:
    merged = ["".join(merge) for merge in MERGES]
    vocabulary = {entry: number for number, entry in enumerate([*SPECIAL, *BYTES, *ALPHABET, *merged])}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def sentencepiece_llama(directory: Path) -> Logits:
    tokenizer = sentencepiece_tokenizer()
    logits = hf_llama(directory, vocab_size=tokenizer.get_vocab_size(), bos_token_id=1, eos_token_id=2)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return logits
