"""BERT's tokenizer in plain Python, to check what the tokenizers library makes of a vocab.txt.

Source: google-research/bert, tokenization.py, as transformers' BertTokenizer has it.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LONGEST_WORD = 100  # characters; a longer word is unknown
CHINESE = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    lower_case: bool = True
    chinese_apart: bool = True  # each Chinese character is a word
    strip_accents: bool | None = None  # None: same as lower_case


def encoder(vocabulary: Mapping[str, int], unknown: str, rules: Rules) -> Callable[[str], list[int]]:
    """Returns an encoder from text to tokens."""
    return lambda text: [vocabulary[piece] for word in _words(text, rules) for piece in _pieces(word, vocabulary, unknown)]


def _words(text: str, rules: Rules) -> Iterator[str]:
    """Splits at white space and around each punctuation mark."""
    for word in "".join(_cleaned(text, rules.chinese_apart)).split():
        if rules.lower_case if rules.strip_accents is None else rules.strip_accents:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        if rules.lower_case:
            word = word.lower()
        spaced = "".join(f" {character} " if _is_punctuation(character) else character for character in word)
        yield from spaced.split()


def _cleaned(text: str, chinese_apart: bool) -> Iterator[str]:
    for character in text:
        if character.isspace():
            yield " "
        elif character != "\ufffd" and unicodedata.category(character)[0] != "C":
            apart = chinese_apart and any(first <= ord(character) <= last for first, last in CHINESE)
            yield f" {character} " if apart else character


def _is_punctuation(character: str) -> bool:
    ascii_symbol = "!" <= character <= "~" and not character.isalnum()
    return ascii_symbol or unicodedata.category(character)[0] == "P"


def _pieces(word: str, vocabulary: Mapping[str, int], unknown: str) -> list[str]:
    """Greedy longest-match pieces; the whole word is unknown if some part has none."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= LONGEST_WORD:
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary), None)
        if end is None:
            return [unknown]
        pieces.append(mark + word[start:end])
        start = end
    return pieces or [unknown]
