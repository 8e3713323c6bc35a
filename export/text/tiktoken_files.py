"""tiktoken's byte-level BPE: an `Encoding` that was pickled, as nanochat saves its own, and files of ranks (`.tiktoken`).

A token's id is its rank. Of all neighbours tiktoken joins the two that make the token of lowest rank; a word that is a token
itself is that token. Source: tiktoken, src/lib.rs.
"""

import binascii
import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.text.tokenizers import END_OF_TEXT, TOKENIZER_LIMIT, byte_level_bpe, check_sizes, files, gpt2, guarded, words
from export.text.word_patterns import GPT4O, LLAMA3, QWEN2
from export.text_file import is_unicode, read_text

LETTERS = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}  # bytes that stand for themselves
MOVED = [byte for byte in range(256) if byte not in LETTERS]
AS_LETTERS = {byte: chr(256 + place) for place, byte in enumerate(MOVED)}  # GPT-2's: the others get a character each

Ranks = Mapping[str, int]  # of tokens, their bytes written as letters


@dataclass(frozen=True)
class _Known:
    """A vocabulary that is recognised by its number of ranks."""

    split: tuple[str, ...]  # none: GPT-2's
    special_tokens: Mapping[str, int]


def _llama3() -> dict[str, int]:
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = iter(range(256))
    texts = [named.get(place) or f"reserved_special_token_{next(reserved)}" for place in range(256)]
    return {f"<|{text}|>": 128000 + place for place, text in enumerate(texts)}


KNOWN = {
    50256: _Known((), {END_OF_TEXT: 50256}),  # GPT-2's, r50k_base
    50280: _Known((), {END_OF_TEXT: 50256}),  # p50k_base
    100256: _Known((LLAMA3,), {END_OF_TEXT: 100257, "<|endofprompt|>": 100276}),
    199998: _Known((GPT4O,), {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}),
    128000: _Known((LLAMA3,), _llama3()),
    151643: _Known((QWEN2,), {END_OF_TEXT: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}),
}


def from_pickle(path: Path) -> TokenizerFiles:
    """Reads a pickled `tiktoken.Encoding` without running its code: a stand-in class receives its fields."""
    if path.stat().st_size > TOKENIZER_LIMIT:
        raise CheckpointError(f"{path} is larger than any tokenizer")
    try:
        content = path.read_bytes()
        check_sizes(content)
        state = _Unpickler(io.BytesIO(content)).load().state
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    except Exception as exc:  # whatever pickle makes of a damaged or hostile file
        raise CheckpointError(
            f"{path} is no tokenizer.pkl of nanochat, a pickled tiktoken.Encoding ({type(exc).__name__}: {exc})"
        ) from exc
    if state in ("gpt2", "r50k_base"):  # tiktoken's own encodings are saved by name
        return gpt2()
    if isinstance(state, str):
        raise CheckpointError(f"{path} only names tiktoken's encoding {shown(state)}: set TOKENIZER to its .tiktoken file")
    fields = ("mergeable_ranks", "special_tokens", "pat_str")
    ranks, special, pattern = map(state.get, fields) if isinstance(state, dict) else (None, None, None)
    if not isinstance(ranks, dict) or not isinstance(special, dict) or not isinstance(pattern, str):
        raise CheckpointError(f"{path} lacks {', '.join(fields[:2])} or {fields[2]}, which a tiktoken.Encoding has")
    return _files(path, ranks, special, (_for_oniguruma(path, pattern),))


def from_ranks(path: Path) -> TokenizerFiles:
    """Reads lines of a base64 token and its rank. The vocabulary (GPT-2's, cl100k's, …) is recognised by its size."""
    ranks: dict[bytes, int] = {}
    for line in read_text(path, TOKENIZER_LIMIT).splitlines():
        try:
            if line.strip():
                token, rank = line.split()
                ranks[binascii.a2b_base64(token, strict_mode=True)] = int(rank)
        except ValueError as exc:
            raise CheckpointError(f"{path}: its line {shown(line)} is no token in base64 with its rank") from exc
    known = KNOWN.get(len(ranks))
    if known is None:
        counts = ", ".join(map(str, KNOWN))
        raise CheckpointError(
            f"{path} has {len(ranks)} ranks, and does not say how texts are cut into words: known are vocabularies of {counts}"
        )
    return _files(path, ranks, known.special_tokens, known.split)


class _Encoding:
    """A stand-in for tiktoken's class that holds what was pickled."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _Encoding
        raise CheckpointError(f"it names {module}.{name}, which could run code on loading; allowed is tiktoken's Encoding")


def _files(path: Path, ranks: Mapping[Any, Any], special: Mapping[Any, Any], split: tuple[str, ...]) -> TokenizerFiles:
    """Builds the equivalent tokenizer of the tokenizers library."""
    _check(path, ranks, special)
    letters = {_as_letters(token): rank for token, rank in ranks.items()}
    with guarded(f"{path} makes no byte-level BPE"):
        # special tokens in the vocabulary keep their ids; as added tokens they are found in a text
        tokenizer = byte_level_bpe(letters | dict(special), _merges(letters), split=split, ignore_merges=True)
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
        made = files(tokenizer)
    names = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT) if END_OF_TEXT in special else {}
    return replace(made, special_tokens=names, added_tokens=dict(special), reference=_encoder(letters, tokenizer))


def _check(path: Path, ranks: Mapping[Any, Any], special: Mapping[Any, Any]) -> None:
    """Raises CheckpointError unless these map bytes and text to distinct numbers."""
    wrong = next((token for token in ranks if not isinstance(token, bytes) or not token), None)
    wrong = next((text for text in special if not isinstance(text, str) or not text or not is_unicode(text)), wrong)
    if wrong is not None:
        raise CheckpointError(f"{path} has the token {shown(wrong)}, allowed are bytes, and text for special ones")
    numbers = [*ranks.values(), *special.values()]
    if any(type(number) is not int or number < 0 for number in numbers) or len({*numbers}) < len(numbers):
        raise CheckpointError(f"{path} does not give each token a number of its own")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise CheckpointError(f"{path} lacks the byte {missing[0]}, so some texts have no tokens")


def _as_letters(token: bytes) -> str:
    return token.decode("latin-1").translate(AS_LETTERS)


def _merges(ranks: Ranks) -> list[tuple[str, str]]:
    """For each token the pair that it is joined from, in the order of ranks.

    There is only one: what happens within a token before it is whole does not depend on what stands around it.
    """
    pairs = []
    for token, _ in sorted(ranks.items(), key=itemgetter(1)):
        parts = [*token]
        while len(parts) > 2 and (place := _lowest(parts, ranks)) is not None:
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs


def _lowest(parts: list[str], ranks: Ranks) -> int | None:
    """The index of the adjacent pair that forms the token of lowest rank; None if no pair forms one."""
    places = ((rank, place) for place, (a, b) in enumerate(pairwise(parts)) if (rank := ranks.get(a + b)) is not None)
    return min(places, default=(0, None))[1]


def _encoder(ranks: Ranks, tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Encodes as tiktoken does, from the ranks alone."""

    @cache
    def tokens_of(word: str) -> list[int]:
        parts = [word] if word in ranks else [*word]
        while (place := _lowest(parts, ranks)) is not None:
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return [ranks[part] for part in parts]

    return lambda text: [token for word in words(tokenizer, text) for token in tokens_of(word)]


def _for_oniguruma(path: Path, pattern: str) -> str:
    """A pattern of Rust's fancy-regex in the dialect of the tokenizers library. There `$` is the end of each line, and a `+`
    behind `{n,m}` a repetition; here it keeps what was matched, which changes nothing where an alternative ends."""
    pattern = re.sub(r"(\{\d+(?:,\d*)?\})\+(?=\||\)|$)", r"\1", pattern)
    if re.search(r"\{\d+(?:,\d*)?\}\+", pattern):
        raise CheckpointError(
            f"{path} cuts texts with the pattern {shown(pattern)}, whose possessive counts are not implemented"
        )
    return re.sub(r"\\.|\[(?:\\.|[^]\\])*]|\$", lambda found: r"\z" if found[0] == "$" else found[0], pattern)
