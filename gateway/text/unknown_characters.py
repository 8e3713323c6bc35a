"""Explains to a client what a tokenizer cannot encode: which character, where, and which characters it supports."""

from itertools import islice

import tokenizers

TRIED = 1000  # distinct characters, each encoded by itself
SHOWN = 120  # characters of a vocabulary


def unknown_character(tokenizer: tokenizers.Tokenizer, text: str, *, rendered: bool = False) -> str:
    """Returns the rest of a sentence that starts with the parameter's name. Leaves out the position in a ``rendered``
    conversation, where it would mean nothing to the client."""
    vocabulary = tokenizer.get_vocab()
    strange = (character for character in dict.fromkeys(text) if character not in vocabulary)
    unknown = next((character for character in islice(strange, TRIED) if not _encodes(tokenizer, character)), None)
    if unknown is None:
        return "holds a character that is not in this model's vocabulary"
    position = "" if rendered else f" at position {text.index(unknown)}"
    return (
        f"holds {unknown!r} (U+{ord(unknown):04X}){position}, which is not in this model's vocabulary{_characters(vocabulary)}"
    )


def _characters(vocabulary: dict[str, int]) -> str:
    """Lists the characters of a character-level vocabulary; empty for any other."""
    known = sorted(token for token in vocabulary if len(token) == 1)
    if 2 * len(known) < len(vocabulary):
        return ""
    shown = repr("".join(known[:SHOWN])) + ("…" if len(known) > SHOWN else "")
    return f" of {len(known)} characters: {shown}"


def _encodes(tokenizer: tokenizers.Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # the library raises bare Exceptions
        return False
    return True
