"""SentencePiece in plain Python, following its own source, to check what the tokenizers library makes of a `.model`.

Source: google/sentencepiece, normalizer.cc, bpe_model.cc and unigram_model.cc; darts.h of s-yata/darts-clone.
"""

import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

SPACE = "▁"
UNKNOWN_PENALTY = 10.0  # below the least score of a piece


@dataclass(frozen=True)
class Encoder:
    """Encodes text to tokens."""

    normalize: Callable[[str], str]
    split: Callable[[str], Sequence[str]]
    ids: Mapping[str, int]  # of pieces and symbols
    unknown: int | None  # None: unknown characters are dropped
    byte_ids: Sequence[int]  # ids of all 256 bytes, used for unknown characters; empty: no byte fallback
    symbols: frozenset[str]  # added tokens that the encoder finds itself

    def __call__(self, text: str) -> list[int]:
        tokens: list[int] = []
        for known, pieces in groupby(self.split(self.normalize(text)), key=self.ids.__contains__):
            if known:
                tokens += [self.ids[piece] for piece in pieces]
            elif self.byte_ids:
                tokens += [self.byte_ids[byte] for byte in "".join(pieces).encode()]
            elif self.unknown is not None:
                tokens.append(self.unknown)  # one for a run of them
        return tokens


class Symbols:
    """User-defined symbols: text that is never split."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._symbols = frozenset(symbols)
        self._lengths = sorted({len(symbol) for symbol in self._symbols}, reverse=True)

    def __contains__(self, text: object) -> bool:
        return text in self._symbols

    def at(self, text: str, place: int) -> str | None:
        """The longest symbol at this index."""
        return next((text[place : place + n] for n in self._lengths if text[place : place + n] in self._symbols), None)


NO_SYMBOLS = Symbols(())


class Merges:
    """BPE: repeatedly joins the adjacent pair whose union has the best score, leftmost first; never joins symbols."""

    def __init__(self, scores: Mapping[str, float], symbols: Symbols) -> None:
        self._scores, self._symbols = scores, symbols

    def __call__(self, text: str) -> list[str]:
        parts: list[str] = []
        place = 0
        while place < len(text):
            parts.append(self._symbols.at(text, place) or text[place])
            place += len(parts[-1])
        left, right = [*range(-1, len(parts) - 1)], [*range(1, len(parts)), -1]  # neighbours
        heap: list[tuple[float, int, int, str]] = []
        for first, second in pairwise(range(len(parts))):
            self._offer(heap, parts, first, second)
        while heap:
            _, first, second, union = heapq.heappop(heap)
            if right[first] != second or parts[first] + parts[second] != union:
                continue  # one of them was joined with another since
            parts[first], parts[second] = union, ""
            right[first], right[second] = right[second], -1
            self._offer(heap, parts, left[first], first)
            if right[first] >= 0:
                left[right[first]] = first
                self._offer(heap, parts, first, right[first])
        return [part for part in parts if part]

    def _offer(self, heap: list[tuple[float, int, int, str]], parts: list[str], first: int, second: int) -> None:
        if first < 0 or parts[first] in self._symbols or parts[second] in self._symbols:
            return
        if (score := self._scores.get(union := parts[first] + parts[second])) is not None:
            heapq.heappush(heap, (-score, first, second, union))


class BestPath:
    """Unigram: the segmentation with the highest total score (Viterbi)."""

    def __init__(self, scores: Mapping[str, float], symbols: Iterable[str]) -> None:
        best, least = max(scores.values(), default=0.0), min(scores.values(), default=0.0)
        self._unknown = least - UNKNOWN_PENALTY
        self._scores = {**scores, **{symbol: len(symbol.encode()) * max(best, 0.0) - 0.1 for symbol in symbols}}
        self._longest = max(map(len, self._scores), default=1)

    def __call__(self, text: str) -> list[str]:
        best = [(0.0, 0)] + [(-np.inf, 0)] * len(text)  # of each end: the sum, and where its last piece begins
        for start in range(len(text)):
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                score = self._scores.get(text[start:end], self._unknown if end == start + 1 else -np.inf)
                if best[start][0] + score > best[end][0]:
                    best[end] = (best[start][0] + score, start)
        pieces, end = [], len(text)
        while end:
            pieces.append(text[best[end][1] : end])
            end = best[end][1]
        return pieces[::-1]


@dataclass(frozen=True)
class Normalizer:
    charsmap: bytes  # the length of a trie, the trie, and what its values are offsets of; empty: no character changes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    lower_case: bool
    symbols: Symbols = NO_SYMBOLS
    without_prefix: Symbols = NO_SYMBOLS  # texts, unlike in SentencePiece: see export/text/sentencepiece.py

    def __call__(self, text: str) -> str:
        text = "".join(self._characters(text.lower() if self.lower_case else text))
        if self.remove_extra_whitespaces:
            text = re.sub(" +", " ", text).lstrip(" ").rstrip(f" {SPACE}")
        prefix = SPACE if self.add_dummy_prefix and text and text not in self.without_prefix else ""
        return prefix + text.replace(" ", SPACE)

    def _characters(self, text: str) -> Iterable[str]:
        """Yields symbols, the longest sequences in the charsmap, and other characters, each normalized."""
        place = 0
        while place < len(text):
            same = self.symbols.at(text, place) or text[place]
            length, changed = (len(same), same) if same in self.symbols else self._changed(text, place) or (1, same)
            yield changed
            place += length

    def _changed(self, text: str, place: int) -> tuple[int, str] | None:
        """Length in characters of the longest charsmap sequence at this index, and its replacement."""
        if not self.charsmap:
            return None
        trie_end = 4 + int.from_bytes(self.charsmap[:4], "little")
        trie = np.frombuffer(self.charsmap, "<u4", (trie_end - 4) // 4, offset=4)
        found = _longest(trie, text[place : place + 64].encode())
        if found is None:
            return None
        length, value = found
        replaced = self.charsmap[trie_end + value : self.charsmap.index(0, trie_end + value)]
        return len(text[place : place + 64].encode()[:length].decode()), replaced.decode()


def _longest(trie: np.ndarray, text: bytes) -> tuple[int, int] | None:
    """Length and value of the longest entry of a double-array trie that is a prefix of ``text``."""
    found = None
    node = _offset(int(trie[0]))
    for length, byte in enumerate(text, start=1):
        node ^= byte
        unit = int(trie[node])
        if unit & 0x800000FF != byte:
            break
        node ^= _offset(unit)
        if unit >> 8 & 1:
            found = length, int(trie[node]) & 0x7FFFFFFF
    return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)
