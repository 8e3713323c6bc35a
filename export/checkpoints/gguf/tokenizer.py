"""The tokenizer inside a GGUF file, as `tokenizer.json`: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.checkpoints.gguf.pre_tokenizers import BEGINS_WITH_BOS, IGNORE_MERGES, PRE_TOKENIZERS
from export.text.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, bpe_from_scores
from export.text.special_tokens import enclose
from export.text.tokenizers import byte_level_bpe, files, guarded

TOKEN_LIMIT, TEXT_LIMIT = 1024, 16 << 20  # characters of a token, and of all: every way to split a token is looked at
RAW = "gemma4"  # the name of the pre-tokenizer that cuts nothing
PHI3_BARE = {"<unk>", "<s>", "<|endoftext|>"}
# GGUF's words for the special tokens, and transformers'
NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "cls": "cls", "mask": "mask"}


def build(metadata: Mapping[str, Any]) -> TokenizerFiles:
    model = metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if not isinstance(model, str) or model not in builders:
        raise CheckpointError(
            f"its tokenizer.ggml.model is {shown(model)}; served are 'gpt2' and 'llama' (or name another by TOKENIZER)"
        )
    tokens, types = _tokens(metadata)
    with guarded("its vocabulary makes no tokenizer"):
        tokenizer: Tokenizer = builders[model](metadata, tokens, types)
        added = _added(metadata, tokens, types)
        tokenizer.add_tokens(added)
    ids = {key: _token_id(metadata, key, len(tokens)) for key in (*NAMES, "eot", "eom")}
    special = {f"{name}_token": tokens[number] for key, name in NAMES.items() if (number := ids[key]) is not None}
    has_bos = model == "llama" or metadata.get("tokenizer.ggml.pre") in [*BEGINS_WITH_BOS]
    if metadata.get("tokenizer.ggml.add_bos_token", has_bos):
        enclose(tokenizer, special.get("bos_token"), None)
    template = metadata.get("tokenizer.chat_template")
    ends = [number for key in ("eos", "eot", "eom") if (number := ids[key]) is not None]
    made = files(tokenizer, template if isinstance(template, str) else None, ends)
    # llama.cpp renders templates with empty texts for the two that a file may lack
    names = {"bos_token": "", "eos_token": ""} | special
    texts = {token.content for token in added}
    return replace(
        made, special_tokens=names, added_tokens={text: number for number, text in enumerate(tokens) if text in texts}
    )


def _added(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[AddedToken]:
    """Tokens that are matched in text before anything else. Phi-3's own also consume the spaces after them."""
    phi3 = metadata.get("general.architecture") == "phi3" and metadata.get("tokenizer.ggml.model") == "llama"
    return [
        AddedToken(text, special=kind == CONTROL, normalized=False, rstrip=phi3 and text not in PHI3_BARE)
        for text, kind in dict(zip(tokens, types, strict=True)).items()
        if kind in (CONTROL, USER_DEFINED)
    ]


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError("it lacks tokenizer.ggml.tokens: name a tokenizer by TOKENIZER")
    if max(map(len, tokens)) > TOKEN_LIMIT or sum(map(len, tokens)) > TEXT_LIMIT:
        raise CheckpointError(f"its tokens are longer than {TOKEN_LIMIT} characters, or than {TEXT_LIMIT} together")
    types = metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointError("its tokenizer.ggml.token_type does not have one entry for each token")
    return tokens, types


def _token_id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    number = metadata.get(f"tokenizer.ggml.{key}_token_id")
    return number if isinstance(number, int) and 0 <= number < count else None


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", [])]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    if pre == RAW:
        return _raw_bpe(vocabulary, merges, tokens[types.index(UNKNOWN)] if UNKNOWN in types else None)
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted((*PRE_TOKENIZERS, RAW)))
        raise CheckpointError(f"its tokenizer.ggml.pre is {shown(pre)}; known are {known} (or name a tokenizer by TOKENIZER)")
    return byte_level_bpe(vocabulary, merges, split=PRE_TOKENIZERS[pre], ignore_merges=pre in IGNORE_MERGES)


def _raw_bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str | None) -> Tokenizer:
    """Gemma's tokenizer.json: BPE of characters as they are, spaces as `▁`."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    scores = metadata.get("tokenizer.ggml.scores", [])
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError("its tokenizer.ggml.scores does not have one entry for each token")
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    return bpe_from_scores(tokens, scores, types, add_space_prefix=bool(prefix))
