"""A tokenizer by what names it, and that of a Hugging Face directory: everything that transformers reads from its files."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from export import plain_bpe
from export.checkpoint import CheckpointError, TokenizerFiles, shown
from export.own_files import require_own_files
from export.text_file import is_unicode, read_object, read_text
from export.tokenizers import ID_LIMIT, byte_level_bpe, characters, files, gpt2, guarded, parsed, words

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # of the special tokens that every tokenizer may have
ENDS = ("bos", "eos")  # what `add_bos_token` and `add_eos_token` put at the ends of a text
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# What transformers' class takes where the files name no other.
GPT2_TOKENS = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")}
CLASS_TOKENS = {
    "GPT2Tokenizer": GPT2_TOKENS,
    "Qwen2Tokenizer": {f"{name}_token": "<|endoftext|>" for name in ("eos", "unk", "pad")},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

Json = dict[str, Any]
Encoder = Callable[[str], list[int]]


def named(tokenizer: str) -> TokenizerFiles:
    """What TOKENIZER names: `gpt2`, a tokenizer.json, a directory that holds one, or nanoGPT's meta.pkl."""
    if tokenizer == "gpt2":
        return gpt2()
    path = Path(tokenizer).expanduser()
    if path.is_dir():
        return from_directory(path)
    if not path.is_file():
        raise CheckpointError(f"the tokenizer {tokenizer!r} is no file or directory, and not `gpt2`")
    return characters(path) if path.suffix == ".pkl" else files(parsed(path))


def from_directory(directory: Path, *, rows: int = 0) -> TokenizerFiles:
    """tokenizer.json, or vocab.json and merges.txt; added and special tokens, wherever they stand; the chat template.

    ``rows`` of the embedding: a special token that has no id anywhere gets the next one, as in transformers, if there is a row.
    """
    require_own_files(directory)
    config = _object(directory, "tokenizer_config.json")
    names, added = _declared(directory, config)
    whole = (directory / "tokenizer.json").is_file()
    class_name = _class_name(config)
    if whole and class_name is None and _object(directory, "config.json").get("model_type", "gpt2") != "gpt2":
        class_name = "TokenizersBackend"  # as of a Llama: tokenizer.json as it is
    if whole:
        tokenizer, reference = parsed(directory / "tokenizer.json"), None
        _set_prefix_space(tokenizer, class_name, config)
    else:
        tokenizer, reference = _from_vocabulary(directory, class_name, config, added)
    flagged = {token.content: token for token in (*tokenizer.get_added_tokens_decoder().values(), *added.values())}
    special = {
        name: flagged.get(token.content, token)
        for name, token in (_defaults(tokenizer, class_name, names) | _special_tokens(names)).items()
    }
    with guarded("its added tokens make no tokenizer"):
        _add(tokenizer, [*added.values()], [*special.values(), *_extra_tokens(names)], rows)
    texts = {name: token.content for name, token in special.items()}
    if not whole:
        _enclose(tokenizer, *(texts.get(f"{name}_token") if config.get(f"add_{name}_token") is True else None for name in ENDS))
    end = tokenizer.token_to_id(texts["eos_token"]) if "eos_token" in texts else None
    made = files(tokenizer, _template(directory, config), [] if end is None else [end])
    ids = {token.content: number for number, token in added.items() if token.content}
    return replace(made, special_tokens=texts, added_tokens=ids, reference=reference)


def _class_name(config: Mapping[str, Any]) -> str | None:
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else None


def _defaults(tokenizer: Tokenizer, class_name: str | None, names: Json) -> dict[str, AddedToken]:
    """Of transformers' class, as far as the vocabulary has them and the files do not say null."""
    tokens = CLASS_TOKENS.get(class_name or "GPT2Tokenizer", {})
    wanted = {name: text for name, text in tokens.items() if name not in names or names[name] is not None}
    return {name: _token(text) for name, text in wanted.items() if tokenizer.token_to_id(text) is not None}


def _declared(directory: Path, config: Json) -> tuple[Json, dict[int, AddedToken]]:
    """What names the special tokens; and the added tokens by id. Where tokenizer_config.json has `added_tokens_decoder`, it
    says everything; before that was invented, special_tokens_map.json and added_tokens.json did."""
    if isinstance(decoder := config.get("added_tokens_decoder"), dict):
        tokens = {_id(key): _token(value) for key, value in sorted(decoder.items(), key=lambda item: _id(item[0]))}
        ids: dict[str, int] = {}
        for number, token in tokens.items():
            if (other := ids.setdefault(token.content, number)) != number:
                raise CheckpointError(f"its files give {shown(token.content)} both the id {other} and the id {number}")
        return config, tokens
    names = config | _object(directory, "special_tokens_map.json")
    special = {token.content for token in [*_special_tokens(names).values(), *_extra_tokens(names)]}
    numbers = {_token(text).content: _id(number) for text, number in _object(directory, "added_tokens.json").items()}
    _require_one_text_each(numbers)
    return names, {
        number: AddedToken(text, special=text in special, normalized=text not in special)
        for text, number in sorted(numbers.items(), key=itemgetter(1))
    }


def _require_one_text_each(numbers: Mapping[str, Any]) -> None:
    texts: dict[Any, str] = {}
    for text, number in numbers.items():
        if (other := texts.setdefault(number, text)) != text:
            raise CheckpointError(f"its files give both {shown(other)} and {shown(text)} the id {number}")


def _special_tokens(names: Mapping[str, Any]) -> dict[str, AddedToken]:
    """By name: `bos_token` and its like, and others that a model may have, such as `image_token`."""
    known = {f"{name}_token" for name in NAMES}
    found = {key: _token(value) for key, value in names.items() if key in known and value is not None}
    found |= {key: _token(value) for key, value in names.items() if key.endswith("_token") and _is_token(value)}
    for extra in (names.get("extra_special_tokens"), names.get("model_specific_special_tokens")):
        found |= {key: _token(value) for key, value in extra.items()} if isinstance(extra, dict) else {}
    return {key: token for key, token in found.items() if key.isidentifier()}


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _extra_tokens(names: Mapping[str, Any]) -> list[AddedToken]:
    extra = names.get("extra_special_tokens") or names.get("additional_special_tokens") or []
    return [_token(token) for token in extra] if isinstance(extra, list) else []


def _token(declared: Any) -> AddedToken:
    """From its text, or from an object with its flags."""
    content = declared.get("content") if isinstance(declared, dict) else declared
    if not isinstance(content, str) or not is_unicode(content):
        raise CheckpointError(f"its files name the special token {shown(declared)}, expected is text")
    if not isinstance(declared, dict):
        return AddedToken(content, special=True, normalized=False)
    flags = {flag: declared[flag] for flag in FLAGS if isinstance(declared.get(flag), bool)}
    return AddedToken(content, **{"special": True} | flags)


def _id(number: Any) -> int:
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 9:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < ID_LIMIT:
        raise CheckpointError(f"its files give an added token the id {shown(number)}, allowed are 0 to {ID_LIMIT - 1}")
    return number


def _add(tokenizer: Tokenizer, added: list[AddedToken], special: Iterable[AddedToken], rows: int) -> None:
    """In transformers' order: what has an id first; then the special ones, which their names make special."""
    tokenizer.add_tokens(added)
    for token in special:
        known = tokenizer.token_to_id(token.content) is not None
        if known or 0 < tokenizer.get_vocab_size() < rows:
            tokenizer.add_special_tokens([token])


def _set_prefix_space(tokenizer: Tokenizer, class_name: str | None, config: Json) -> None:
    """`add_prefix_space` of the configuration outweighs that of a GPT-2's tokenizer.json."""
    before = tokenizer.pre_tokenizer
    wanted = config.get("add_prefix_space")
    if class_name == "GPT2Tokenizer" and isinstance(wanted, bool) and isinstance(before, pre_tokenizers.ByteLevel):
        before.add_prefix_space = wanted
        tokenizer.pre_tokenizer = before


def _from_vocabulary(
    directory: Path, class_name: str | None, config: Json, added: dict[int, AddedToken]
) -> tuple[Tokenizer, Encoder]:
    if not ((directory / "vocab.json").is_file() and (directory / "merges.txt").is_file()):
        way_out = "transformers writes tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        raise CheckpointError(f"{directory} holds neither tokenizer.json nor vocab.json with merges.txt; {way_out}")
    if class_name not in (None, "GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend"):
        raise CheckpointError(
            f"its tokenizer_class is {shown(class_name)}; vocab.json and merges.txt are read for GPT2Tokenizer and "
            "Qwen2Tokenizer: save it with transformers, which writes tokenizer.json"
        )
    vocabulary, merges = _object(directory, "vocab.json"), plain_bpe.read_merges(directory / "merges.txt")
    # the vocabulary alone keeps ids with gaps between them
    numbers = {token.content: number for number, token in added.items() if token.content} | vocabulary
    is_qwen2 = class_name == "Qwen2Tokenizer"
    prefix = config.get("add_prefix_space") is True
    with guarded("vocab.json and merges.txt make no byte-level BPE"):
        tokenizer = byte_level_bpe(numbers, merges, split=(QWEN2_WORDS,) if is_qwen2 else (), add_prefix_space=prefix)
        if is_qwen2:
            tokenizer.normalizer = normalizers.NFC()
    _require_one_text_each(numbers)
    return tokenizer, plain_bpe.encoder(vocabulary, merges, partial(_words, tokenizer, is_qwen2))


def _words(tokenizer: Tokenizer, composed: bool, text: str) -> list[str]:
    return words(tokenizer, unicodedata.normalize("NFC", text) if composed else text)


def _enclose(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    """Each text that is encoded begins with the one, and ends with the other."""
    ids = {text: number for text in (bos, eos) if text is not None and (number := tokenizer.token_to_id(text)) is not None}
    if ids:
        first, second = ([text for text in (bos, place, eos) if text in ids or text == place] for place in ("$A", "$B"))
        tokenizer.post_processor = processors.TemplateProcessing(first, [*first, *second], [*ids.items()])


def _template(directory: Path, config: Json) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, of which one is named `default`
        named_default = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next(named_default, {}).get("template")
    return template if isinstance(template, str) else None


def _object(directory: Path, name: str) -> Json:
    """The object in a file of the directory; empty where there is no such file."""
    return read_object(directory / name) if (directory / name).is_file() else {}
