"""A small Llama whose tokenizer falls back to bytes, as those that were made with SentencePiece are saved by transformers."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from tests.export.samples import Logits, hf_llama

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = "▁abcdefghijklmnopqrstuvwxyzABT.,!\n你好é"
MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "t"), ("i", "d"), ("▁t", "id"), ("▁tid", "e"), ("▁", "▁"), ("你", "好")]


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
