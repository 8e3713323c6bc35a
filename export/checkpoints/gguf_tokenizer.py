"""The tokenizer inside a GGUF file, as `tokenizer.json`: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.tokenizers import byte_level_bpe, files, guarded

TOKEN_LIMIT, TEXT_LIMIT = 1024, 16 << 20  # characters of a token, and of all: every way to split a token is looked at
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # llama.cpp's token types (besides unused and byte)

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"  # GPT-2's
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# what llama.cpp does for each name of `tokenizer.ggml.pre` (llama-vocab.cpp): patterns that cut one after the other
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jina-es", "jina-de"), (WORDS,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), (r"\p{N}", WORDS)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe"), (LLAMA3,)),
    **dict.fromkeys(("qwen2", "stablelm2"), (QWEN2,)),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
# GGUF's words for the special tokens, and transformers'
NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "cls": "cls", "mask": "mask"}
IGNORE_MERGES = {"llama3", "llama-v3", "llama-bpe"}  # a word that is one token is that token, whatever the merges say


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
    kinds = {text: kind for text, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)}
    added = [AddedToken(text, special=kind == CONTROL, normalized=False) for text, kind in kinds.items()]
    tokenizer.add_tokens(added)
    ids = {key: _token_id(metadata, key, len(tokens)) for key in (*NAMES, "eot", "eom")}
    special = {f"{name}_token": tokens[number] for key, name in NAMES.items() if (number := ids[key]) is not None}
    if (bos := special.get("bos_token")) is not None and metadata.get(
        "tokenizer.ggml.add_bos_token", model == "llama" or metadata.get("tokenizer.ggml.pre") in [*IGNORE_MERGES]
    ):
        tokenizer.post_processor = processors.TemplateProcessing([bos, "$A"], [bos, "$A", "$B"], [(bos, ids["bos"])])
    template = metadata.get("tokenizer.chat_template")
    ends = [number for key in ("eos", "eot", "eom") if (number := ids[key]) is not None]
    made = files(tokenizer, template if isinstance(template, str) else None, ends)
    # llama.cpp renders templates with empty texts for the two that a file may lack
    names = {"bos_token": "", "eos_token": ""} | special
    numbers = {text: number for number, text in enumerate(tokens) if text in kinds}
    return replace(made, special_tokens=names, added_tokens=numbers)


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
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise CheckpointError(f"its tokenizer.ggml.pre is {shown(pre)}; known are {known} (or name a tokenizer by TOKENIZER)")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", [])]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    return byte_level_bpe(vocabulary, merges, split=PRE_TOKENIZERS[pre], ignore_merges=pre in IGNORE_MERGES)


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """SentencePiece joins the neighbours whose union has the best score: BPE, with one merge for each way to split a piece."""
    scores = metadata.get("tokenizer.ggml.scores", [])
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError("its tokenizer.ggml.scores does not have one entry for each token")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = [
        (-scores[number], piece[:cut], piece[cut:])
        for piece, number in vocabulary.items()
        if types[number] == NORMAL  # the text of a control token never makes that token
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    merges.sort(key=lambda merge: merge[0])
    unknown = tokens[types.index(UNKNOWN)] if UNKNOWN in types else None
    pairs = [(left, right) for _, left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([*[normalizers.Prepend("▁")] * bool(prefix), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *[decoders.Strip(" ", 1, 0)] * bool(prefix)])
    return tokenizer
