"""Tokens become text without an error, whole and one by one alike, whatever the decoder of a tokenizer.json does."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from gateway.errors import InvalidRequest
from gateway.text.detokenizer import LibraryPanic
from gateway.text.grammar import Grammar, GrammarCompiler
from gateway.text.tokenizer import Tokenizer
from tests.export.sentencepiece import sentencepiece_tokenizer
from tests.gateway.utf8 import complete, shown

LIBRARY = sentencepiece_tokenizer()
SENTENCEPIECE = Tokenizer(LIBRARY.to_str(), None)
SIZE = LIBRARY.get_vocab_size()
ids = st.integers(0, SIZE - 1)


def id_of(entry: str) -> int:
    number = LIBRARY.token_to_id(entry)
    assert number is not None
    return int(number)


def byte_tokens(data: bytes) -> list[int]:
    return [id_of(f"<0x{byte:02X}>") for byte in data]


def pieces(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> list[str]:
    stream = tokenizer.decode_stream(prompt)
    return [*(stream.push(token) for token in tokens), stream.finish()]


def test_bytes_that_are_no_character_change_nothing_that_was_sent() -> None:
    tokens = [*byte_tokens(b"\n\xe4"), id_of("a")]
    for prompt in ([], [1], SENTENCEPIECE.encode("the tide")):
        assert pieces(SENTENCEPIECE, prompt, tokens) == ["\n", "", "\ufffda", ""]
    assert SENTENCEPIECE.decode(tokens) == "\n\ufffda"


@settings(max_examples=300, deadline=None)
@given(st.lists(ids, max_size=12), st.lists(ids, max_size=30))
@example([1], [id_of("▁"), id_of("▁▁"), id_of("a")])
@example([id_of("▁")], [id_of("▁▁"), id_of("a")])
@example(byte_tokens(b"\xe4\xbd"), byte_tokens(b"\xa0"))
@example([], byte_tokens(b" \xf0\x9f\x99\x82\xed\xa0"))
def test_any_tokens_of_a_sentencepiece_model_are_their_bytes(prompt: list[int], tokens: list[int]) -> None:
    def data(tokens: list[int]) -> bytes:
        return b"".join(SENTENCEPIECE.token_bytes(token) for token in tokens if token > 2)

    whole = data(tokens)
    sent = "".join(pieces(SENTENCEPIECE, prompt, tokens))
    if data(prompt).lstrip(b" ") or data(prompt).startswith(b" "):  # else the text begins here, and loses its first space
        assert sent == shown(whole)
    else:
        assert sent == shown(whole).removeprefix(" ")
        assert SENTENCEPIECE.decode(tokens) == sent + ("" if complete(whole) == whole else "\ufffd")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=5).map(lambda text: byte_tokens(text.encode())) | ids.map(lambda one: [one])))
def test_tokens_that_spell_whole_characters_give_what_the_library_gives(parts: list[list[int]]) -> None:
    tokens = [token for part in parts for token in part if len(part) > 1 or not 128 <= token - 3 < 256]
    assert SENTENCEPIECE.decode(tokens) == LIBRARY.decode(tokens) == "".join(pieces(SENTENCEPIECE, [], tokens))
    named = SENTENCEPIECE.decode(tokens, skip_special_tokens=False)
    assert named == LIBRARY.decode(tokens, skip_special_tokens=False)


def of_words(words: list[str], decoder: decoders.Decoder | None, special: tuple[str, ...] = ()) -> HuggingFaceTokenizer:
    model = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0])
    tokenizer = HuggingFaceTokenizer(model)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


WORDS = ["hello", "##ing", "▁the", "low</w>", "\ufffd", "a b", ".", "'s", "你", "Ġx", "<0xE4>", "<0xBD>", "<0xA0>", "<0x0A>"]
WORDS += ["æ", "½", "ł", " ", "aa", "<pad>", "|"]
ORDERLY = {
    "words": None,
    "WordPiece": decoders.WordPiece(),
    "Metaspace": decoders.Metaspace(),
    "BPEDecoder": decoders.BPEDecoder(),
    "CTC": decoders.CTC(),
    "Fuse": decoders.Fuse(),
    "ByteLevel": decoders.ByteLevel(),
    "Gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
    "Replace": decoders.Replace(Regex("[a-h]"), "*"),
    "Strip": decoders.Strip("l", 1, 1),
}
UNRULY = {  # their text changes behind what was shown
    "bytes, then Metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]),
    "a pattern over all": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(r"\s+(?=\.)|aa$"), "")]),
    "byte level, then a pattern": decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex(r"a b|hello"), "")]),
}


@pytest.mark.parametrize("name", ORDERLY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_decoder_gives_piece_by_piece_what_it_gives_at_once(name: str, data: st.DataObject) -> None:
    library = of_words(WORDS, ORDERLY[name], special=("<s>",))
    some = st.lists(st.integers(0, len(WORDS)), max_size=40)
    prompt, tokens = data.draw(some), data.draw(some)
    before, whole = library.decode(prompt), library.decode(prompt + tokens)
    if name == "ByteLevel" and (before.endswith("\ufffd") or whole.endswith("\ufffd")):
        return  # half a character: test_text_properties.py
    tokenizer = Tokenizer(library.to_str(), None)
    assert before + "".join(pieces(tokenizer, prompt, tokens)) == whole == tokenizer.decode(prompt + tokens)


@pytest.mark.parametrize("name", UNRULY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_decoder_that_changes_what_was_shown_raises_nothing_and_the_text_goes_on(name: str, data: st.DataObject) -> None:
    library = of_words(WORDS, UNRULY[name], special=("<s>",))
    some = st.lists(st.integers(0, len(WORDS)), max_size=40)
    prompt, tokens = data.draw(some), data.draw(some)
    end = [WORDS.index("你"), WORDS.index("你")]
    assert "".join(pieces(Tokenizer(library.to_str(), None), prompt, [*tokens, *end])).endswith("你你")


def test_a_real_replacement_character_at_the_end_is_shown_by_any_decoder() -> None:
    tokenizer = HuggingFaceTokenizer(models.BPE({"a": 0, "ï": 1, "¿": 2, "½": 3, "ä": 4, "½b": 5}, []))
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("~~", "~")]
    )  # one that we leave to the library
    texts = Tokenizer(tokenizer.to_str(), None)
    assert "".join(pieces(texts, [], [0, 1, 2, 3])) == "a\ufffd"
    assert "".join(pieces(texts, [], [0, 4])) == "a"  # half of a character


def test_an_entry_beside_the_alphabet_of_bytes_is_its_own_text() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = of_words([*alphabet, "a b", "你好", "Ġx"], decoders.ByteLevel())
    tokenizer = Tokenizer(library.to_str(), None)
    tokens = [len(alphabet), len(alphabet) + 1, len(alphabet) + 2]
    assert [tokenizer.token_bytes(token) for token in tokens] == [b"a b", "你好".encode(), b" x"]
    assert "".join(pieces(tokenizer, [], tokens)) == tokenizer.decode(tokens) == library.decode(tokens) == "a b你好 x"
    matcher = GrammarCompiler(tokenizer, len(alphabet) + 3, frozenset()).compile(Grammar("json_object"))
    assert matcher.allowed()[alphabet.index("{")] and not matcher.allowed()[tokens[0]]


SLOW = Regex("(?:a|aa)+$")  # with this on the next word, the library's regular expressions panic
PANIC = "a" * 60 + "b"


def test_a_panic_of_the_library_is_an_ordinary_error_wherever_it_happens() -> None:
    fragile = of_words(["x", PANIC], decoders.Replace(SLOW, ""))
    tokenizer = Tokenizer(fragile.to_str(), None)
    stream = tokenizer.decode_stream([0])
    assert stream.push(0) == "x"
    with pytest.raises(LibraryPanic):
        stream.push(1)
    with pytest.raises(LibraryPanic):
        tokenizer.decode([0, 1])
    with pytest.raises(LibraryPanic):
        tokenizer.decode_stream([1])
    assert tokenizer.token_bytes(1) == PANIC.encode()
    assert "".join(pieces(tokenizer, [0], [0, 0])) == "xx"


def test_a_text_on_which_the_library_panics_is_refused_by_name() -> None:
    fragile = of_words(["x", PANIC], decoders.Fuse())
    fragile.normalizer = normalizers.Replace(SLOW, "")
    with pytest.raises(InvalidRequest, match="^prompt: this model's tokenizer cannot take this text"):
        Tokenizer(fragile.to_str(), None).encode(PANIC)


def test_a_model_without_a_decoder_joins_its_words_by_spaces() -> None:
    library = of_words(["a", "b"], None)
    assert json.loads(library.to_str())["decoder"] is None
    assert pieces(Tokenizer(library.to_str(), None), [0], [1, 0]) == [" b", " a", ""]
