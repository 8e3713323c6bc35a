"""The special and added tokens of a Hugging Face directory, from all files that may declare them, as in transformers."""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from export.checkpoint import CheckpointError, shown
from export.text.tokenizers import ID_LIMIT
from export.text_file import is_unicode, read_object

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # of the special tokens that every tokenizer may have
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")

Json = dict[str, Any]


def declared(directory: Path, config: Json) -> tuple[Json, dict[int, AddedToken]]:
    """What names the special tokens; and the added tokens by id. Where tokenizer_config.json has `added_tokens_decoder`, it
    says everything; before that was invented, special_tokens_map.json and added_tokens.json did."""
    if isinstance(decoder := config.get("added_tokens_decoder"), dict):
        tokens = {_id(key): token(value) for key, value in sorted(decoder.items(), key=lambda item: _id(item[0]))}
        ids: dict[str, int] = {}
        for number, one in tokens.items():
            if (other := ids.setdefault(one.content, number)) != number:
                raise CheckpointError(f"its files give {shown(one.content)} both the id {other} and the id {number}")
        return config, tokens
    names = config | optional_object(directory, "special_tokens_map.json")
    special = {one.content for one in [*special_tokens(names).values(), *extra_tokens(names)]}
    numbers = {token(text).content: _id(number) for text, number in optional_object(directory, "added_tokens.json").items()}
    require_one_text_each(numbers)
    return names, {
        number: AddedToken(text, special=text in special, normalized=text not in special)
        for text, number in sorted(numbers.items(), key=itemgetter(1))
    }


def require_one_text_each(numbers: Mapping[str, Any]) -> None:
    texts: dict[Any, str] = {}
    for text, number in numbers.items():
        if (other := texts.setdefault(number, text)) != text:
            raise CheckpointError(f"its files give both {shown(other)} and {shown(text)} the id {number}")


def special_tokens(names: Mapping[str, Any]) -> dict[str, AddedToken]:
    """By name: `bos_token` and its like, and others that a model may have, such as `image_token`."""
    known = {f"{name}_token" for name in NAMES}
    found = {key: token(value) for key, value in names.items() if key in known and value is not None}
    found |= {key: token(value) for key, value in names.items() if key.endswith("_token") and _is_token(value)}
    for extra in (names.get("extra_special_tokens"), names.get("model_specific_special_tokens")):
        found |= {key: token(value) for key, value in extra.items()} if isinstance(extra, dict) else {}
    return {key: one for key, one in found.items() if key.isidentifier()}


def extra_tokens(names: Mapping[str, Any]) -> list[AddedToken]:
    extra = names.get("extra_special_tokens") or names.get("additional_special_tokens") or []
    return [token(one) for one in extra] if isinstance(extra, list) else []


def default_tokens(tokenizer: Tokenizer, defaults: Mapping[str, str], names: Json) -> dict[str, AddedToken]:
    """Of ``defaults`` by name, those that the vocabulary has and the files do not say null of."""
    wanted = {name: text for name, text in defaults.items() if name not in names or names[name] is not None}
    return {name: token(text) for name, text in wanted.items() if tokenizer.token_to_id(text) is not None}


def add(tokenizer: Tokenizer, added: list[AddedToken], special: Iterable[AddedToken], rows: int) -> None:
    """In transformers' order: what has an id first; then the special ones, which their names make special."""
    tokenizer.add_tokens(added)
    for one in special:
        known = tokenizer.token_to_id(one.content) is not None
        if known or 0 < tokenizer.get_vocab_size() < rows:
            tokenizer.add_special_tokens([one])


def enclose(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    """Makes encoding add ``bos`` at the start and ``eos`` at the end, if the vocabulary has them."""
    ids = {text: number for text in (bos, eos) if text is not None and (number := tokenizer.token_to_id(text)) is not None}
    if ids:
        first, second = ([text for text in (bos, place, eos) if text in ids or text == place] for place in ("$A", "$B"))
        tokenizer.post_processor = processors.TemplateProcessing(first, [*first, *second], [*ids.items()])


def token(named: Any) -> AddedToken:
    """From its text, or from an object with its flags."""
    content = named.get("content") if isinstance(named, dict) else named
    if not isinstance(content, str) or not is_unicode(content):
        raise CheckpointError(f"its files name the special token {shown(named)}, expected is text")
    if not isinstance(named, dict):
        return AddedToken(content, special=True, normalized=False)
    flags = {flag: named[flag] for flag in FLAGS if isinstance(named.get(flag), bool)}
    return AddedToken(content, **{"special": True} | flags)


def optional_object(directory: Path, name: str) -> Json:
    """The JSON object in a file of the directory; empty if there is no such file."""
    return read_object(directory / name) if (directory / name).is_file() else {}


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _id(number: Any) -> int:
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 9:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < ID_LIMIT:
        raise CheckpointError(f"its files give an added token the id {shown(number)}, allowed are 0 to {ID_LIMIT - 1}")
    return number
