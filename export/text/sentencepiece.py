"""SentencePiece's `.model` files as `tokenizer.json`, read without its library: the same tokens for the same text.

What differs: the texts of control pieces become these pieces, and what follows one begins like a text of its own (as in Llama's
`legacy` tokenizer), as does what follows a user-defined symbol that the file's own normalizer would change. And a text that is
nothing but one user-defined symbol has no prefix.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.text.plain_sentencepiece import NO_SYMBOLS, BestPath, Encoder, Merges, Normalizer, Symbols
from export.text.special_tokens import enclose
from export.text.tokenizers import files, guarded

FILE_LIMIT = 32 << 20  # bytes: that of 256 thousand pieces has 4 million
PIECES_LIMIT = 1 << 20
PIECE_LIMIT, TEXT_LIMIT = 1024, 16 << 20  # characters of a piece, and of all: every way to split a piece is looked at
SPACE = "▁"
SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
UNIGRAM, BPE, CHARACTERS = 1, 2, 4  # kinds of models (besides words)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of pieces (besides unused ones), as in GGUF
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # with byte_fallback, all of them are there
# the fields of sentencepiece_model.proto that are read: name, number, type, default
SCHEMA: dict[str, list[tuple[str, int, str, str]]] = {
    "Piece": [("piece", 1, "BYTES", ""), ("score", 2, "FLOAT", "0"), ("type", 3, "INT32", "1")],
    "TrainerSpec": [
        ("model_type", 3, "INT32", "1"),
        ("treat_whitespace_as_suffix", 24, "BOOL", "false"),
        ("byte_fallback", 35, "BOOL", "false"),
        ("unk_piece", 45, "BYTES", "<unk>"),
        ("bos_piece", 46, "BYTES", "<s>"),
        ("eos_piece", 47, "BYTES", "</s>"),
        ("pad_piece", 48, "BYTES", "<pad>"),
    ],
    "NormalizerSpec": [
        ("precompiled_charsmap", 2, "BYTES", ""),
        ("add_dummy_prefix", 3, "BOOL", "true"),
        ("remove_extra_whitespaces", 4, "BOOL", "true"),
        ("escape_whitespaces", 5, "BOOL", "true"),
    ],
    "Model": [("pieces", 1, "Piece", ""), ("trainer_spec", 2, "TrainerSpec", ""), ("normalizer_spec", 3, "NormalizerSpec", "")],
}


@dataclass(frozen=True)
class Model:
    """The defaults are Llama's."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int = BPE
    byte_fallback: bool = True
    special_tokens: Mapping[str, str] = field(default_factory=lambda: SPECIAL_TOKENS)  # those that it may have, by name
    charsmap: bytes = b""
    add_dummy_prefix: bool = True  # a space before each text
    remove_extra_whitespaces: bool = False

    def of_type(self, *types: int) -> dict[str, int]:
        """Pieces with their ids."""
        return {piece: number for number, piece in enumerate(self.pieces) if self.types[number] in types}


def from_model(
    path: Path, *, add_bos: bool = True, add_prefix: bool | None = None, legacy: bool = True, lower_case: bool = False
) -> TokenizerFiles:
    """See `from_pieces`. ``add_prefix``: a space before each text; None: as the file says."""
    model = read(path)
    if add_prefix is not None:
        model = replace(model, add_dummy_prefix=add_prefix)
    with guarded(f"its {path.name} makes no tokenizer"):
        return from_pieces(model, add_bos=add_bos, legacy=legacy, lower_case=lower_case)


def from_pieces(model: Model, *, add_bos: bool = True, legacy: bool = True, lower_case: bool = False) -> TokenizerFiles:
    """``add_bos``: each text begins with `<s>`, as Llama's tokenizer has it, and SentencePiece's own does not.

    Not ``legacy``: a space only before the first text, and not behind control pieces. ``lower_case``: of everything, at first.
    """
    tokenizer = _tokenizer(model, lower_case=lower_case, legacy=legacy)
    special = {name: piece for name, piece in model.special_tokens.items() if piece in model.of_type(UNKNOWN, CONTROL)}
    if add_bos:
        enclose(tokenizer, special.get("bos_token"), None)
    ends = [number for piece, number in model.of_type(CONTROL).items() if piece == special.get("eos_token")]
    return replace(
        files(tokenizer, None, ends),
        special_tokens=special,
        added_tokens=model.of_type(CONTROL, USER_DEFINED),
        reference=reference(model, tokenizer, lower_case) if legacy or not model.add_dummy_prefix else None,
    )


def bpe_from_scores(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    add_space_prefix: bool = True,
    byte_fallback: bool = True,
) -> Tokenizer:
    """SentencePiece joins the neighbours whose union has the best score: BPE, with one merge for each way to split a piece."""
    vocabulary = {text: number for number, text in enumerate(tokens)}
    # the text of a control token never makes that token, and user-defined ones are joined with nothing
    normal = {piece: number for piece, number in vocabulary.items() if types[number] == NORMAL}
    merges = [
        (-scores[number], piece[:cut], piece[cut:])
        for piece, number in normal.items()
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    merges.sort(key=lambda merge: merge[0])
    unknown = tokens[types.index(UNKNOWN)] if UNKNOWN in types else None
    pairs = [(left, right) for _, left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence(
        [*[normalizers.Prepend(SPACE)] * add_space_prefix, normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = _decoder(byte_fallback, strips=add_space_prefix)
    return tokenizer


def read(path: Path) -> Model:
    """Raises CheckpointError."""
    if path.stat().st_size > FILE_LIMIT:
        raise CheckpointError(f"its {path.name} is larger than {FILE_LIMIT} bytes, as no SentencePiece model is")
    message: Any = _message_class()()
    try:
        message.ParseFromString(path.read_bytes())
        pieces = [piece.piece.decode() for piece in message.pieces]
        trainer, normalizer = message.trainer_spec, message.normalizer_spec
        special = {name: getattr(trainer, name.replace("token", "piece")).decode() for name in SPECIAL_TOKENS}
    except (DecodeError, UnicodeDecodeError) as exc:
        raise CheckpointError(f"its {path.name} is no SentencePiece model: {exc}") from exc
    model = Model(
        pieces,
        [piece.score for piece in message.pieces],
        [piece.type for piece in message.pieces],
        trainer.model_type,
        trainer.byte_fallback,
        special,
        normalizer.precompiled_charsmap,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
    )
    for name, wanted in (("treat_whitespace_as_suffix", False), ("escape_whitespaces", True)):
        if getattr(normalizer if wanted else trainer, name) is not wanted:
            raise CheckpointError(f"its {path.name} says {name} = {not wanted}, implemented is {wanted}")
    _check(model, path.name)
    return model


def _check(model: Model, name: str) -> None:
    fault = None
    if model.kind not in (UNIGRAM, BPE, CHARACTERS):
        fault = f"is of the kind {model.kind}, implemented are unigram ({UNIGRAM}), BPE ({BPE}) and characters ({CHARACTERS})"
    elif not 1 <= len(model.pieces) <= PIECES_LIMIT:
        fault = f"has {len(model.pieces)} pieces, allowed are 1 to {PIECES_LIMIT}"
    elif max(map(len, model.pieces)) > PIECE_LIMIT or sum(map(len, model.pieces)) > TEXT_LIMIT:
        fault = f"has pieces longer than {PIECE_LIMIT} characters, or than {TEXT_LIMIT} together"
    elif not all(model.pieces) or len(set(model.pieces)) < len(model.pieces):
        fault = "has an empty piece, or one piece twice"
    elif not all(map(math.isfinite, model.scores)):
        fault = "has a score that is no finite number"
    elif model.types.count(UNKNOWN) != 1:
        fault = f"has {model.types.count(UNKNOWN)} unknown pieces, expected is one"
    elif model.of_type(BYTE).keys() != (BYTES if model.byte_fallback else set()):
        fault = f"has {model.types.count(BYTE)} pieces for bytes, and byte_fallback is {model.byte_fallback}"
    elif model.charsmap and not 8 <= 4 + int.from_bytes(model.charsmap[:4], "little") < len(model.charsmap):
        fault = f"has a charsmap of {len(model.charsmap)} bytes that is shorter than it says: {shown(model.charsmap[:4])}"
    if fault:
        raise CheckpointError(f"its {name} {fault}")


def _tokenizer(model: Model, *, lower_case: bool, legacy: bool) -> Tokenizer:
    if model.kind == UNIGRAM:
        tokenizer = Tokenizer(_unigram(model))
    else:
        types = model.types if model.kind == BPE else [kind if kind != NORMAL else BYTE for kind in model.types]  # no merges
        tokenizer = bpe_from_scores(model.pieces, model.scores, types, byte_fallback=model.byte_fallback)
    steps = [*[normalizers.Lowercase()] * lower_case, *_charsmap(model)]
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"(?<![ ▁])[ ▁]+\z|\A +| +(?= )"), ""))
    without_prefix = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    symbols = model.of_type(USER_DEFINED)
    # those that the normalizer would change are looked for before it, the others behind it, as in SentencePiece
    stable = {symbol for symbol in symbols if without_prefix.normalize_str(symbol) == symbol}
    if model.add_dummy_prefix and legacy:
        steps.append(_prefix(stable if model.kind != UNIGRAM else ()))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if model.add_dummy_prefix and not legacy:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    elif model.kind == UNIGRAM and model.byte_fallback:  # `<0x0A>` in a text is six characters, and never that byte
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")
    tokenizer.decoder = _decoder(model.byte_fallback, strips=model.add_dummy_prefix or model.remove_extra_whitespaces)
    special = model.of_type(UNKNOWN, CONTROL)
    tokenizer.add_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    tokenizer.add_tokens(
        [
            AddedToken(symbol, special=False, normalized=symbol in stable)
            for symbol in symbols
            if model.kind != UNIGRAM or symbol not in stable  # its model knows them
        ]
    )
    return tokenizer


def _unigram(model: Model) -> models.Unigram:
    """A user-defined symbol costs nearly nothing, so that it is always chosen."""
    best = max((score for score, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL), default=0.0)
    scores = [
        len(piece.encode()) * max(best, 0.0) - 0.1 if kind == USER_DEFINED else score
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True)
    ]
    unknown = model.types.index(UNKNOWN)
    return models.Unigram([*zip(model.pieces, scores, strict=True)], unk_id=unknown, byte_fallback=model.byte_fallback)


def _charsmap(model: Model) -> list[normalizers.Normalizer]:
    """The library looks at whole graphemes, SentencePiece at any sequence: of composed characters they make the same, but for
    marks on characters that the charsmap changes (an accent on ½ is lost)."""
    if not model.charsmap:
        return []
    own = Normalizer(model.charsmap, False, False, False)
    composed = [normalizers.NFC()] if own("e\u0301") == "é" else []
    lines = [normalizers.Replace("\r\n", "\n\n")] if own("\r") == own("\n") else []
    return [*composed, *lines, normalizers.Precompiled(model.charsmap)]


def _prefix(symbols: Iterable[str]) -> normalizers.Normalizer:
    """A space before each text, but not before a symbol alone: the library normalizes symbols before it looks for them."""
    alone = "|".join(map(re.escape, sorted(symbols)))
    return normalizers.Replace(Regex(rf"\A(?=[\s\S])(?!(?:{alone})\z)"), SPACE) if alone else normalizers.Prepend(SPACE)


def _decoder(byte_fallback: bool, *, strips: bool) -> decoders.Decoder:
    fallback = [decoders.ByteFallback()] if byte_fallback else []
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    return decoders.Sequence([decoders.Replace(SPACE, " "), *fallback, decoders.Fuse(), *strip])


def reference(model: Model, tokenizer: Tokenizer, lower_case: bool = False) -> Encoder:
    """The other way to encode what is between the added tokens of ``tokenizer``."""
    normal, symbols = model.of_type(NORMAL), model.of_type(USER_DEFINED)
    outside = {token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.normalized}
    inside = symbols.keys() - outside
    scores = {piece: model.scores[number] for piece, number in normal.items()}
    is_unigram, own = model.kind == UNIGRAM, Symbols(inside)
    split = BestPath(scores, inside) if is_unigram else Merges(scores if model.kind == BPE else {}, own)
    normalize = Normalizer(
        model.charsmap,
        model.add_dummy_prefix,
        model.remove_extra_whitespaces,
        lower_case,
        symbols=own,
        without_prefix=NO_SYMBOLS if is_unigram else own,
    )
    byte_ids = [number for _, number in sorted(model.of_type(BYTE).items())]
    unknown = model.types.index(UNKNOWN) if UNKNOWN in model.types else None
    return Encoder(normalize, split, normal | symbols, unknown, byte_ids if len(byte_ids) == 256 else [], frozenset(inside))


@cache
def _message_class() -> Any:
    """Of `Model`, in a pool of its own: another library may have registered SentencePiece's own file."""
    file = descriptor_pb2.FileDescriptorProto(name="sentencepiece_model.proto", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in SCHEMA.items():
        added = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            label = kinds.LABEL_REPEATED if name == "pieces" else kinds.LABEL_OPTIONAL
            if kind in SCHEMA:
                added.field.add(name=name, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=kind)
            else:
                added.field.add(name=name, number=number, label=label, type=f"TYPE_{kind}", default_value=default)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Model"))
