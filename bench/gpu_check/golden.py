"""Whether the decoder on this device says what the model says: against transformers in fp32 on the CPU, and against itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row
from backends.onnx_decoder.device import Device
from export.verify import Comparison

LENGTH, WRITTEN = 96, 24  # tokens
LARGEST_KL, LEAST_TOP1 = 1e-3, 0.97  # of fp16 against fp32: export/verify.py asks the same of every fp16 export

Reference = Callable[[np.ndarray], np.ndarray]  # tokens [n] → logits [n, vocabulary]


@dataclass(frozen=True)
class Check:
    title: str
    passed: bool
    detail: str


def check(model: Path, reference: Reference, device: Device) -> Iterator[Check]:
    decoder = Decoder(model, slots=8, context_length=256, device=device)
    tokens = np.random.default_rng(7).integers(0, decoder.vocabulary_size, LENGTH).astype(np.int32)
    expected = reference(tokens)
    whole = _logits(decoder, Row(0, 0, tokens, LENGTH, full_logits=True))
    yield _alike("the whole prompt", expected, whole)
    yield from (_alike(title, expected[places], run(decoder, tokens)) for title, places, run in ARRANGEMENTS)
    yield _texts(decoder, reference, tokens[:16])


def _logits(decoder: Decoder, *rows: Row) -> np.ndarray:
    found = [candidates.logits for candidates in decoder.run(rows)]
    return np.concatenate([one for one in found if one is not None])


def _row(slot: int, past: int, tokens: np.ndarray) -> Row:
    return Row(slot, past, tokens, len(tokens), full_logits=True)


def _chunks(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    places = [0, 1, 8, 17, 50, LENGTH]
    return np.concatenate([_logits(decoder, _row(1, start, tokens[start:end])) for start, end in pairwise(places)])


def _decode(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    _logits(decoder, _row(2, 0, tokens[:64]))
    return np.concatenate([_logits(decoder, _row(2, place, tokens[place : place + 1])) for place in range(64, LENGTH)])


def _crowd(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """Rows that decode, that verify drafts and that begin, together, with idle slots between."""
    _logits(decoder, _row(3, 0, tokens[:40]))
    _logits(decoder, _row(6, 0, tokens[:30]))
    rows = _row(3, 40, tokens[40:41]), _row(5, 0, tokens[:20]), _row(6, 30, tokens[30:34])
    return _logits(decoder, *rows)


def _rollback(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    _logits(decoder, _row(4, 0, tokens[:50]), _row(7, 0, tokens[::-1][:20]))
    _logits(decoder, _row(4, 50, tokens[::-1][:6]))  # wrong drafts
    return _logits(decoder, _row(4, 50, tokens[50:52]))


def _copied(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    _logits(decoder, _row(0, 0, tokens))
    decoder.copy_prefix(0, 5, 70)
    return _logits(decoder, _row(5, 70, tokens[70:]))


ARRANGEMENTS: list[tuple[str, slice | list[int], Callable[[Decoder, np.ndarray], np.ndarray]]] = [
    ("chunks of a prompt", slice(None), _chunks),
    ("decode, token by token", slice(64, None), _decode),
    ("rows of all kinds together", [40, *range(20), *range(30, 34)], _crowd),
    ("drafts taken back", slice(50, 52), _rollback),
    ("a copied prefix", slice(70, None), _copied),
]


def _alike(title: str, expected: np.ndarray, got: np.ndarray) -> Check:
    compared = Comparison()
    compared.add(expected, got)
    near_ties = compared.kl <= LARGEST_KL / 10  # all that can differ: one in 25 positions is below LEAST_TOP1
    passed = bool(compared.kl < LARGEST_KL and (compared.top1 >= LEAST_TOP1 or near_ties))
    return Check(title, passed, f"KL {compared.kl:.1e}, top-1 {compared.top1:.3f}")


def _texts(decoder: Decoder, reference: Reference, prompt: np.ndarray) -> Check:
    """Greedy, token for token; where they part, the two tokens must be as good as each other."""
    text = list(prompt)
    for _ in range(WRITTEN):
        (found,) = decoder.run([Row(1, 0, np.array(text, np.int32))])
        text.append(int(found.candidate_id[0, 0]))
    expected = reference(np.array(text, np.int32))[len(prompt) - 1 : -1]
    written = np.array(text[len(prompt) :])
    behind = expected.max(-1) - expected[np.arange(WRITTEN), written]
    worse = np.flatnonzero(~(behind <= 0.02 * expected.std(-1)))  # so that NaN fails too
    if len(worse):
        return Check("greedy text", False, f"token {worse[0]} is {behind[worse[0]]:.3f} behind the best")
    return Check("greedy text", True, f"{WRITTEN} tokens")
