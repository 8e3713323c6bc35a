"""Limits on what a tokenizer may do. An ordinary one makes a few tokens per character, at a million characters per second.

A tokenizer from a checkpoint may turn a letter into a megabyte, or try every way to split a word, and the gateway uses it on
input from strangers.
"""

import json
import string
import sys
import time
import unicodedata
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

from tokenizers import Tokenizer

from export.checkpoint import CheckpointError

GROWTH = 32  # times as many characters as came: NFKD makes 18 of one at most
REPLACEMENTS = 64  # the lengths of what all replacements put in the place of something, multiplied
RUNS = (24, 512, 8192)  # characters of texts that are hard for a pattern which tries everything
TAIL = "!" + string.printable + "é中"  # what a pattern may demand behind a run, but not at once
SECONDS = 1.0  # of CPU time for one such text; ordinary tokenizers take a hundredth
RUN_OF_TOKENS = 64
PIECE = 32  # tokens decoded together


def require_bounded(tokenizer_json: str) -> None:
    """Raises CheckpointError. Only call it in a process with resource limits: bad tokenizers may use any time and memory."""
    _require_short_replacements(json.loads(tokenizer_json))
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if tokenizer.normalizer is not None:
        for text in _all_characters():
            if len(tokenizer.normalizer.normalize_str(text)) > GROWTH * len(text):
                raise CheckpointError(f"its normalizer makes more than {GROWTH} characters of one")
    for text in _hard_texts():
        began = time.process_time()
        tokens = _encoded(tokenizer, text)
        if time.process_time() - began > SECONDS:
            raise CheckpointError(f"its tokenizer takes more than {SECONDS:.0f} s for {len(text)} characters ({text[:8]!r}…)")
        if len(tokens) > GROWTH * len(text):
            raise CheckpointError(f"its tokenizer makes more than {GROWTH} tokens of a character")
    _require_decoding(tokenizer)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return list(tokenizer.encode(text).ids)
    except Exception as exc:
        if type(exc) is Exception:  # as the library says that a vocabulary lacks a character
            return []
        raise


def _require_short_replacements(document: dict[str, Any]) -> None:
    """Checks replacements directly: trials with single characters cannot find multi-character patterns."""
    for part in ("normalizer", "decoder"):
        lengths = (max(1, len(content)) for content in _contents(document.get(part)))
        if prod(lengths) > REPLACEMENTS:
            raise CheckpointError(f"its {part} puts more than {REPLACEMENTS} characters in the place of one")


def _contents(step: Any) -> Iterator[str]:
    """Of all steps that replace or prepend, however deep in sequences."""
    if isinstance(step, list):
        for one in step:
            yield from _contents(one)
    elif isinstance(step, dict):
        yield from (step[key] for key in ("content", "prepend", "replacement") if isinstance(step.get(key), str))
        for key in ("normalizers", "decoders"):
            yield from _contents(step.get(key))


def _all_characters() -> Iterator[str]:
    """Every assigned character of Unicode, in texts of 64."""
    known = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) not in ("Cn", "Cs", "Co")]
    return ("".join(known[n : n + 64]) for n in range(0, len(known), 64))


def _hard_texts() -> Iterator[str]:
    units = ("a", "A", "1", " ", "\n", ".", "'", "é", "中", "ab", "a ", "1.", " \n", "<|", "aA1 .é")
    for length, unit in (*product(RUNS, units), *product(RUNS[:1], string.printable)):
        run = (unit * length)[:length]
        yield run
        yield run + TAIL


def _require_decoding(tokenizer: Tokenizer) -> None:
    """Decodes each token alone, then all in groups: a decoder may fail, or expand one token enormously."""
    ids = sorted(tokenizer.get_vocab().values())
    has_pattern = '"Regex"' in json.dumps(json.loads(tokenizer.to_str()).get("decoder"))
    for number in set(_encoded(tokenizer, string.printable)) if has_pattern else ():
        began = time.process_time()
        tokenizer.decode([number] * RUN_OF_TOKENS, skip_special_tokens=False)
        if time.process_time() - began > SECONDS:
            raise CheckpointError(f"its decoder takes more than {SECONDS:.0f} s for {RUN_OF_TOKENS} tokens ({number}, …)")
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    batches = [[[number] for number in ids], [ids[n : n + PIECE] for n in range(0, len(ids), PIECE)]]
    for batch in batches:
        texts = tokenizer.decode_batch(batch, skip_special_tokens=False)
        if max(map(len, texts), default=0) > GROWTH * (longest + 1) * PIECE:
            raise CheckpointError("its decoder makes a long text of a few tokens")
