"""Streamed text is whole: no half characters, no piece of a stop string, and the pieces joined are the text."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from gateway.errors import InvalidRequest
from gateway.tokenizer import Tokenizer

CORPUS = ["The quick brown fox 你好，世界，这是一个美好的日子 🙂🙂🏳️‍🌈 naïve café\n\n" * 3, "stop STOP sto st ###"]


def byte_level_json() -> str:
    """A small GPT-2-style byte-level BPE, so that emoji and Chinese need several tokens."""
    tokenizer = HuggingFaceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


TOKENIZER_JSON = byte_level_json()
TOKENIZER = Tokenizer(TOKENIZER_JSON, None)
SIZE = HuggingFaceTokenizer.from_str(TOKENIZER_JSON).get_vocab_size()


def pieces(tokens: list[int], stop: tuple[str, ...] = (), prompt: str = "The") -> list[str]:
    stream = TOKENIZER.decode_stream(TOKENIZER.encode(prompt), stop)
    shown = []
    for token in tokens:
        shown.append(stream.push(token))
        if stream.stopped:
            break
    return [*shown, stream.finish()]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60).filter(lambda text: not text.endswith("\ufffd")))
@example("这是一个🙂🏳️‍🌈")
def test_pieces_joined_are_the_text_and_no_piece_is_half_a_character(text: str) -> None:
    shown = pieces(TOKENIZER.encode(text))
    assert "".join(shown) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in shown)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, SIZE - 1), max_size=40))
def test_any_tokens_give_the_text_that_decoding_them_at_once_gives(tokens: list[int]) -> None:
    prompt = TOKENIZER.encode("The")
    whole = HuggingFaceTokenizer.from_str(TOKENIZER_JSON).decode(prompt + tokens)
    assert "The" + "".join(pieces(tokens)) == whole.rstrip("\ufffd")


def test_text_that_ends_within_a_character_ends_before_it() -> None:
    assert "".join(pieces(TOKENIZER.encode("你好🙂")[:-1])) == "你好"


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="stop STOP#🙂", max_size=40),
    st.lists(st.sampled_from(["stop", "###", "o S", "🙂", "pst", "ss"]), min_size=1, max_size=4),
)
def test_text_ends_before_the_first_stop_string_and_never_shows_a_piece_of_it(text: str, stop: list[str]) -> None:
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    expected = text[: min(places)] if places else text
    shown = ""
    for piece in pieces(TOKENIZER.encode(text), tuple(stop)):
        shown += piece
        assert expected.startswith(shown)
    assert shown == expected


@pytest.mark.parametrize("prompt", ["the \ufffd", "\ufffd", ""])
def test_text_after_a_prompt_that_ends_in_a_replacement_character_is_only_the_text(prompt: str) -> None:
    assert "".join(pieces(TOKENIZER.encode(" fox"), prompt=prompt)) == " fox"


def test_special_tokens_are_not_shown() -> None:
    assert "".join(pieces([0, *TOKENIZER.encode(" fox"), 0])) == " fox"


def test_lone_surrogate_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="^prompt: "):
        TOKENIZER.encode("a\ud800b")


def test_template_runs_in_a_sandbox() -> None:
    evil = Tokenizer(TOKENIZER_JSON, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidRequest):
        evil.apply_chat_template([{"role": "user", "content": "hi"}])


def test_template_that_fails_is_no_internal_error() -> None:
    broken = Tokenizer(TOKENIZER_JSON, "{{ 1 + messages }}")
    with pytest.raises(InvalidRequest, match="^messages: "):
        broken.apply_chat_template([{"role": "user", "content": "hi"}])


def test_template_that_refuses_its_messages_says_why() -> None:
    strict = Tokenizer(TOKENIZER_JSON, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        strict.apply_chat_template([{"role": "user", "content": "hi"}])


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        ENDLESS,
        "{% set x = 9**(9**9) %}",
        "{{ 'a' * 10**10 }}",
        "{{ '%01000000000d' | format(1) }}",
        "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{{ 'a' * 10**7 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ broken",
    ],
)
def test_template_without_bounds_harms_nobody_and_the_next_conversation_is_rendered(template: str) -> None:
    tokenizer = Tokenizer(TOKENIZER_JSON, "{% if messages[0].content == 'boom' %}" + template + "{% endif %}fine")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="^messages: this model's chat template (cannot render|refuses) them"):
            tokenizer.apply_chat_template([{"role": "user", "content": "boom"}])
    assert time.monotonic() - began < 30  # seconds: twice two of processor time, on a busy machine
    if template != "{{ broken":
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == TOKENIZER.encode("fine")
