"""Loads a tokenizer by name, or from a Hugging Face directory with everything that transformers reads from its files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from export.checkpoint import CheckpointError, TokenizerFiles
from export.own_files import require_own_files
from export.text import llama2c_tokenizer, tiktoken_files, vocabulary_files, wordpiece
from export.text.special_tokens import (
    Json,
    add,
    declared,
    default_tokens,
    enclose,
    extra_tokens,
    optional_object,
    special_tokens,
)
from export.text.tokenizers import characters, files, gpt2, guarded, parsed
from export.text_file import read_text

# Defaults of transformers' classes, used if the files name no other token.
CLASS_TOKENS = {
    "GPT2Tokenizer": {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")},
    "Qwen2Tokenizer": {f"{name}_token": "<|endoftext|>" for name in ("eos", "unk", "pad")},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
LLAMAS = (
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
)  # sequences start with `<s>` unless the files say otherwise


def named(tokenizer: str, *, add_bos: bool = True) -> TokenizerFiles:
    """What TOKENIZER names: `gpt2`, a directory, or a file: tokenizer.json, SentencePiece's `.model`, BERT's vocab.txt,
    tiktoken's ranks or its pickle, llama2.c's tokenizer.bin, nanoGPT's meta.pkl.

    ``add_bos``: whether sequences start with `<s>`, for SentencePiece files, which do not say.
    """
    if tokenizer == "gpt2":
        return gpt2()
    path = Path(tokenizer).expanduser()
    if path.is_dir():
        return from_directory(path)
    if not path.is_file():
        raise CheckpointError(f"the tokenizer {tokenizer!r} is no file or directory, and not `gpt2`")
    match path.suffix:
        case ".pkl":
            return tiktoken_files.from_pickle(path) if _holds_encoding(path) else characters(path)
        case ".bin":
            return llama2c_tokenizer.from_bin(path)
        case ".txt":
            return wordpiece.from_vocab(path)
        case ".tiktoken":
            return tiktoken_files.from_ranks(path)
        case ".model":
            return vocabulary_files.from_model(path, add_bos=add_bos)
    return files(parsed(path))


def _holds_encoding(path: Path) -> bool:
    """Whether the pickle names tiktoken's class (near its start) rather than holding characters."""
    with path.open("rb") as file:
        return b"tiktoken" in file.read(256)


def from_directory(directory: Path, *, rows: int = 0) -> TokenizerFiles:
    """Reads tokenizer.json, or builds it as transformers does; then added and special tokens, and the chat template.

    ``rows`` of the embedding: a special token without an id gets the next one, as in transformers, if there is a row for it.
    """
    require_own_files(directory)
    config = optional_object(directory, "tokenizer_config.json")
    names, added = declared(directory, config)
    whole = (directory / "tokenizer.json").is_file()
    class_name = _class_name(directory, config, whole)
    if whole:
        tokenizer, source = _from_json(directory / "tokenizer.json", class_name, config)
    else:
        source = vocabulary_files.from_directory(directory, class_name, config, added)
        tokenizer = Tokenizer.from_str(source.tokenizer_json)
    flagged = {token.content: token for token in (*tokenizer.get_added_tokens_decoder().values(), *added.values())}
    class_tokens = source.special_tokens or CLASS_TOKENS.get(class_name or "GPT2Tokenizer", {})
    special = {
        name: flagged.get(token.content, token)
        for name, token in (default_tokens(tokenizer, class_tokens, names) | special_tokens(names)).items()
    }
    with guarded("its added tokens make no tokenizer"):
        add(tokenizer, [*added.values()], [*special.values(), *extra_tokens(names)], rows)
    texts = {name: token.content for name, token in special.items()}
    if not whole:
        defaults = {"bos": class_name in LLAMAS, "eos": False}
        wanted = {name: config.get(f"add_{name}_token", default) is True for name, default in defaults.items()}
        enclose(tokenizer, *(texts.get(f"{name}_token") if wanted[name] else None for name in wanted))
    end = tokenizer.token_to_id(texts["eos_token"]) if "eos_token" in texts else None
    made = files(tokenizer, _template(directory, config), [*source.end_tokens, *([] if end is None else [end])])
    ids = {token.content: number for number, token in added.items() if token.content}
    return replace(made, special_tokens=texts, added_tokens={**source.added_tokens, **ids}, reference=source.reference)


def _class_name(directory: Path, config: Mapping[str, object], whole: bool) -> str | None:
    """transformers' class name, from tokenizer_config.json, config.json, or the model type."""
    model = optional_object(directory, "config.json")
    kind = model.get("model_type", "gpt2")
    for name in (config.get("tokenizer_class"), model.get("tokenizer_class")):
        if isinstance(name, str):
            return name.removesuffix("Fast")
    if whole and kind != "gpt2":
        return "TokenizersBackend"  # as of a Llama: tokenizer.json as it is
    if isinstance(kind, str) and kind.startswith(("llama", "mistral", "gemma")):
        return "GemmaTokenizer" if kind.startswith("gemma") else "LlamaTokenizer"
    return None


def _from_json(path: Path, class_name: str | None, config: Json) -> tuple[Tokenizer, TokenizerFiles]:
    """The configuration's `add_prefix_space` overrides the one in a GPT-2's tokenizer.json."""
    tokenizer = parsed(path)
    before = tokenizer.pre_tokenizer
    wanted = config.get("add_prefix_space")
    if class_name == "GPT2Tokenizer" and isinstance(wanted, bool) and isinstance(before, pre_tokenizers.ByteLevel):
        before.add_prefix_space = wanted
        tokenizer.pre_tokenizer = before
    is_wordpiece = isinstance(tokenizer.model, models.WordPiece)
    if is_wordpiece:
        wordpiece.for_text(tokenizer)
    return tokenizer, TokenizerFiles("", None, tuple(wordpiece.end_tokens(tokenizer) if is_wordpiece else ()))


def _template(directory: Path, config: Json) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, of which one is named `default`
        named_default = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next(named_default, {}).get("template")
    return template if isinstance(template, str) else None
