"""Rows through a decoder in many ways, beside what it says of each text alone."""

from collections.abc import Sequence

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row


def logits(decoder: Decoder, *rows: tuple[int, int, Sequence[int] | np.ndarray]) -> np.ndarray:
    """Full logits of all new positions of rows (slot, past, tokens), row after row."""
    found = decoder.run(
        [Row(slot, past, np.array(tokens, np.int32), len(tokens), full_logits=True) for slot, past, tokens in rows]
    )
    return np.concatenate([candidates.logits for candidates in found if candidates.logits is not None])


def crowd(decoder: Decoder, tokens: np.ndarray, order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Decode, verification and prefill rows of unlike pasts together, in any slots and order, with idle ones between; and the
    same positions of the text alone."""
    pasts, counts, slots = [20, 3, 31, 12, 0], [1, 4, 1, 8, 30], [1, 2, 4, 6, 7]
    return _together(decoder, tokens, *([column[row] for row in order] for column in (slots, pasts, counts)))


def short_prefills(decoder: Decoder, tokens: np.ndarray, slots: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Also of 17, 33 and 49 tokens, which leave attention a block with one query."""
    return _together(decoder, tokens, slots, [0, 3, 0, 5], [17, 33, 9, 49])


def _together(
    decoder: Decoder, tokens: np.ndarray, slots: Sequence[int], pasts: Sequence[int], counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    whole = logits(decoder, (0, 0, tokens))
    for slot, past in zip(slots, pasts, strict=True):
        if past:
            logits(decoder, (slot, 0, tokens[:past]))
    parts = [slice(past, past + count) for past, count in zip(pasts, counts, strict=True)]
    found = logits(decoder, *((slot, part.start, tokens[part]) for slot, part in zip(slots, parts, strict=True)))
    return found, np.concatenate([whole[part] for part in parts])
