"""Byte-level BPE in plain Python, as in GPT-2's encoder.py, to check the tokenizers library against."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

from export.text_file import read_text

Pair = tuple[str, str]


def read_merges(path: Path) -> list[Pair]:
    lines = read_text(path).split("\n")
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#version"))
    return [(left, right) for left, _, right in pairs]


def encoder(
    vocabulary: Mapping[str, int], pairs: Iterable[Pair], words: Callable[[str], Iterable[str]]
) -> Callable[[str], list[int]]:
    """Returns an encoder. ``words`` splits text and writes its bytes as characters, as in the vocabulary."""
    ranks: dict[Pair, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault(pair, rank)

    @cache
    def tokens_of(word: str) -> list[int]:
        parts = [character for character in word if character in vocabulary]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            parts = _joined(parts, best)
        return [vocabulary[part] for part in parts]

    return lambda text: [token for word in words(text) for token in tokens_of(word)]


def _joined(parts: list[str], pair: Pair) -> list[str]:
    """Joins every adjacent occurrence of the pair, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
