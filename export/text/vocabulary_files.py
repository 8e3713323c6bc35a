"""The tokenizer of a Hugging Face directory without tokenizer.json, built from the files that transformers uses, by class."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.text import plain_bpe, sentencepiece, tiktoken_files, wordpiece
from export.text.plain_wordpiece import Rules
from export.text.special_tokens import require_one_text_each
from export.text.tokenizers import byte_level_bpe, files, guarded, words
from export.text.word_patterns import QWEN2
from export.text_file import read_object

ANY = (None, "PreTrainedTokenizer", "TokenizersBackend")
BYTE_LEVEL = ("GPT2Tokenizer", "Qwen2Tokenizer", *ANY)
# Those that number pieces as their file does: XLM-RoBERTa's relatives, for one, put tokens of their own before them.
SENTENCEPIECE = (
    "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "T5Tokenizer", "ChatGLMTokenizer", "BaichuanTokenizer",
    "InternLMTokenizer", "InternLM2Tokenizer", *ANY,
)  # fmt: skip
WORDPIECE = ("BertTokenizer", *ANY)
RANK = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n")  # tiktoken's line: a token in base64, and its rank
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def from_directory(
    directory: Path, class_name: str | None, config: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> TokenizerFiles:
    """``config``: tokenizer_config.json; ``added``: tokens by id, that the vocabulary may lack."""
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        _demand(class_name, BYTE_LEVEL, "vocab.json and merges.txt")
        return _byte_level(directory, class_name, config, added)
    for file in (directory / name for name in MODELS):
        if file.is_file():
            _demand(class_name, SENTENCEPIECE, file.name)
            return from_model(file, add_bos=False, config=config)
    if (directory / "vocab.txt").is_file():
        _demand(class_name, WORDPIECE, "vocab.txt")
        return _wordpiece(directory / "vocab.txt", config)
    for file in sorted(directory.glob("*.tiktoken")):
        return tiktoken_files.from_ranks(file)
    others = f"{', '.join(MODELS)}, vocab.txt or *.tiktoken"
    raise CheckpointError(
        f"it holds neither tokenizer.json nor vocab.json with merges.txt, nor {others}: name a tokenizer by TOKENIZER, or save "
        "its own with transformers, which writes tokenizer.json"
    )


def from_model(path: Path, *, add_bos: bool, config: Mapping[str, Any] | None = None) -> TokenizerFiles:
    """Reads a SentencePiece model, or tiktoken ranks under the same file name, as in Llama 3's own files."""
    with path.open("rb") as file:
        start = file.read(64)
    if RANK.match(start):
        return tiktoken_files.from_ranks(path)
    config = config or {}
    prefix = config.get("add_prefix_space")
    return sentencepiece.from_model(
        path,
        add_bos=add_bos,
        add_prefix=prefix if isinstance(prefix, bool) else None,
        legacy=config.get("legacy") is not False,
        lower_case=config.get("do_lower_case") is True,
    )


def _demand(class_name: str | None, known: tuple[str | None, ...], what: str) -> None:
    if class_name not in known:
        classes = [name for name in known if name not in ANY]
        names = f"{', '.join(classes[:-1])} and {classes[-1]}" if len(classes) > 1 else classes[0]
        raise CheckpointError(
            f"its tokenizer_class is {shown(class_name)}; {what} are read for {names}: "
            "save it with transformers, which writes tokenizer.json"
        )


def _byte_level(
    directory: Path, class_name: str | None, config: Mapping[str, Any], added: Mapping[int, AddedToken]
) -> TokenizerFiles:
    vocabulary, merges = read_object(directory / "vocab.json"), plain_bpe.read_merges(directory / "merges.txt")
    # the vocabulary alone keeps ids with gaps between them
    numbers = {token.content: number for number, token in added.items() if token.content} | vocabulary
    is_qwen2 = class_name == "Qwen2Tokenizer"
    prefix = config.get("add_prefix_space") is True
    with guarded("vocab.json and merges.txt make no byte-level BPE"):
        tokenizer = byte_level_bpe(numbers, merges, split=(QWEN2,) if is_qwen2 else (), add_prefix_space=prefix)
        if is_qwen2:
            tokenizer.normalizer = normalizers.NFC()
    require_one_text_each(numbers)
    return replace(files(tokenizer), reference=plain_bpe.encoder(vocabulary, merges, partial(_words, tokenizer, is_qwen2)))


def _words(tokenizer: Tokenizer, composed: bool, text: str) -> list[str]:
    return words(tokenizer, unicodedata.normalize("NFC", text) if composed else text)


def _wordpiece(path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    accents = config.get("strip_accents")
    return wordpiece.from_vocab(
        path,
        Rules(
            lower_case=config.get("do_lower_case") is not False,
            chinese_apart=config.get("tokenize_chinese_chars") is not False,
            strip_accents=accents if isinstance(accents, bool) else None,
        ),
    )
