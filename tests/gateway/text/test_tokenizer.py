"""Streamed text is whole: no half characters, no piece of a stop string, and the pieces joined are the text."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from gateway.errors import InvalidRequest
from gateway.text.tokenizer import Tokenizer
from tests.gateway.utf8 import shown

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
    texts = []
    for token in tokens:
        texts.append(stream.push(token))
        if stream.stopped:
            break
    return [*texts, stream.finish()]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
@example("这是一个🙂🏳️‍🌈")
@example("\ufffd a\ufffdb\ufffd\ufffd")
def test_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(pieces(TOKENIZER.encode(text))) == text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, SIZE - 1), max_size=40))
def test_any_tokens_give_the_text_that_decoding_them_at_once_gives(tokens: list[int]) -> None:
    data = b"".join(map(TOKENIZER.token_bytes, tokens))
    assert "".join(pieces(tokens)) == shown(data)
    whole = HuggingFaceTokenizer.from_str(TOKENIZER_JSON).decode(TOKENIZER.encode("The") + tokens)
    assert whole == "The" + data.decode(errors="replace")


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
    sent = ""
    for piece in pieces(TOKENIZER.encode(text), tuple(stop)):
        sent += piece
        assert expected.startswith(sent)
    assert sent == expected


END = "<|endoftext|>"  # token 0, which the text leaves out


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["s", "t", "o", " ", END]), max_size=20),
    st.lists(st.sampled_from([END, "t" + END, END + "o", END + END, "s" + END + "t", "st", "o"]), min_size=1, max_size=4),
)
@example(["s", END, "t"], ["st", END + END])
def test_stop_string_may_hold_special_tokens_although_the_text_leaves_them_out(parts: list[str], stop: list[str]) -> None:
    expected = "".join(parts).replace(END, "")
    for count in range(1, len(parts) + 1):
        named = "".join(parts[:count])
        ends = [named.find(string) for string in stop if END in string and string in named]
        places = [len(named[:end].replace(END, "")) for end in ends]
        text = named.replace(END, "")
        places += [text.find(string) for string in stop if END not in string and string in text]
        if places:
            expected = text[: min(places)]
            break
    tokens = [0 if part == END else TOKENIZER.encode(part)[0] for part in parts]
    sent = ""
    for piece in pieces(tokens, tuple(stop)):
        sent += piece
        assert expected.startswith(sent)
    assert sent == expected


def test_stop_string_may_hold_the_token_that_ends_the_text() -> None:
    for stop, text, stopped in ((f"x{END}", "fo", True), ("x!", "fox", False), (f"fox{END}!", "fox", False)):
        stream = TOKENIZER.decode_stream([], (stop,))
        assert "".join([*map(stream.push, TOKENIZER.encode("fox")), stream.finish(0)]) == text
        assert stream.stopped == stopped and stream.shown == stream.decoded == len(text)


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


@pytest.mark.slow
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
