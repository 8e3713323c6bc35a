"""llama2.c's `tokenizer.bin`: the pieces and scores of a SentencePiece model, without its settings."""

import math
import re
import struct
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text.sentencepiece import BYTE, CONTROL, NORMAL, SPACE, TEXT_LIMIT, UNKNOWN, bpe_from_scores
from export.text.special_tokens import enclose
from export.text.tokenizers import files, guarded

LONGEST = struct.Struct("<I")  # bytes of the longest piece; the only field before the pieces
PIECE = struct.Struct("<fI")  # score, and length in bytes of the text that follows
TOKEN_LIMIT = 1024  # bytes per piece: every way to split one is tried
BOS, EOS = "<s>", "</s>"
MARKS = {f"\n{token}\n": token for token in (BOS, EOS)}  # as tokenizer.py writes BOS and EOS
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


def from_bin(path: Path) -> TokenizerFiles:
    """run.c's tokenizer: BOS and a space before each sequence, bytes for unknown text. Raises CheckpointError."""
    pieces, scores = _pieces(path)
    tokens = [MARKS.get(piece, piece.replace(" ", SPACE)) for piece in pieces]
    if len({*tokens}) < len(tokens) or not all(map(math.isfinite, scores)):
        raise CheckpointError(f"its {path.name} has a piece twice, or a score that is no finite number")
    with guarded(f"its {path.name} makes no tokenizer"):
        types = [_type(number, piece) for number, piece in enumerate(pieces)]
        tokenizer = bpe_from_scores(tokens, scores, types)
        special = {token: number for number, token in enumerate(tokens) if types[number] == CONTROL}
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (tokens[0], *special)])
        enclose(tokenizer, BOS, None)
    names = {name: text for name, text in (("bos_token", BOS), ("eos_token", EOS)) if text in special}
    ends = [special[EOS]] if EOS in special else []
    return replace(files(tokenizer, None, ends), special_tokens=names, added_tokens=special)


def _type(number: int, piece: str) -> int:
    if number == 0:
        return UNKNOWN
    return CONTROL if piece in MARKS else BYTE if BYTE_PIECE.fullmatch(piece) else NORMAL


def _pieces(path: Path) -> tuple[list[str], list[float]]:
    if (size := path.stat().st_size) > TEXT_LIMIT:
        raise CheckpointError(f"its {path.name} is {size} bytes long, allowed are {TEXT_LIMIT}")
    content, place = path.read_bytes(), LONGEST.size
    pieces, scores = [], []
    try:
        (longest,) = LONGEST.unpack_from(content)
        while place < len(content):
            score, length = PIECE.unpack_from(content, place)
            place += PIECE.size + length
            if not 1 <= length <= min(longest, TOKEN_LIMIT) or place > len(content):
                raise ValueError(f"a piece of {length} bytes")
            pieces.append(content[place - length : place].decode())
            scores.append(score)
    except (struct.error, ValueError) as exc:
        raise CheckpointError(f"its {path.name} is no tokenizer.bin of llama2.c, or damaged: {exc}") from exc
    if not pieces:
        raise CheckpointError(f"its {path.name} holds no pieces")
    return pieces, scores
