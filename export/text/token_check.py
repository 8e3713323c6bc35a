"""Checks a tokenizer against the files it was made from, on real text, before the model is exported."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

from tokenizers import Tokenizer

from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.text.added_tokens import AddedTokens
from export.text.plain_sentencepiece import Encoder

TEXT = Path(__file__).parents[1] / "verify_text.txt"
SCRIPTS = Path(__file__).with_name("token_text.txt")  # various scripts, code, and text that looks like special tokens


def require_own_tokens(files: TokenizerFiles) -> None:
    """Raises CheckpointError if an added token has another id, or real text other tokens, than the files say."""
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    added_tokens = AddedTokens(added.values())
    for text, number in files.added_tokens.items():
        found: list[int | None] = [tokenizer.token_to_id(text)]
        is_same_text = text in added and not (added[text].normalized and tokenizer.normalizer)
        if is_same_text and len(added_tokens.split(text)) == 1:  # or another token is found in it
            found = [*tokenizer.encode(text, add_special_tokens=False).ids]
        if found != [number]:
            raise CheckpointError(f"its files give the added token {shown(text)} the id {number}, its tokenizer {shown(found)}")
    if files.reference is None:
        return
    text = known_text(files.reference, TEXT, SCRIPTS)  # known to the files: what the tokenizer drops is found
    sample = "".join(f"{line}{token}" for line, token in zip_longest(text.splitlines(keepends=True), added, fillvalue=""))
    ids = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()} | dict(files.added_tokens)
    found_by_reference = files.reference.symbols if isinstance(files.reference, Encoder) else ()
    between = AddedTokens(token for content, token in added.items() if content not in found_by_reference)
    expected: list[int] = []
    for piece in between.split(sample):
        expected += files.reference(piece) if isinstance(piece, str) else [ids[piece.content]]
    tokens = tokenizer.encode(sample, add_special_tokens=False).ids
    if tokens != expected:
        place = next((n for n, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), 0)
        said = f"{shown(tokens[place : place + 3])} where its files say {shown(expected[place : place + 3])}"
        raise CheckpointError(f"its tokenizer does not do what its files say: real text has the tokens {said}")


def known_text(encode: Callable[[str], Sequence[int]], *texts: Path) -> str:
    """The texts (default: `verify`'s), without characters that cannot be encoded, or that give no token and are not blank."""
    text = "".join(path.read_text(encoding="utf-8") for path in texts or (TEXT,))
    known = {character for character in set(text) if _can_encode(encode, character)}
    return "".join(filter(known.__contains__, text))


def _can_encode(encode: Callable[[str], Sequence[int]], character: str) -> bool:
    try:
        return bool(encode(character)) or character.isspace()
    except Exception:  # the library has no narrower one: a vocabulary of words or characters without this one
        return False
