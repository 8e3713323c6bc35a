"""Whatever tokens a model writes: the pieces sent are the whole text, no character is halved, no stop string is begun.

Over the tokenizers that are served: the demonstration model's and GPT-2's byte-level BPE, and nanoGPT's characters.
test_detokenizer.py has the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from gateway.text.tokenizer import Tokenizer
from tests.conftest import CHARACTERS, DEMO, TINY
from tests.export.samples import CHARACTERS as ALPHABET
from tests.gateway.utf8 import shown

BYTE_LEVEL = [DEMO, TINY]
EVERY = [*BYTE_LEVEL, CHARACTERS]
LONGEST_TOKEN = 8  # bytes, of those that a text is cut into
# Characters of one to four bytes, joined emoji, right-to-left text, combining marks, line separators, control characters.
TRICKY = "aZ 09\t\n\r\x00\x7f\u0085\u2028é\u0301ß你好界،שלום\u200d🙂🏳️‍🌈👩‍👩‍👧𝔘\U0010ffff"
texts = st.text(max_size=40) | st.text(alphabet=TRICKY, max_size=40)


@dataclass(frozen=True)
class Served:
    tokenizer: Tokenizer
    library: HuggingFaceTokenizer
    size: int  # ids from 0 on that are tokens
    by_bytes: dict[bytes, int]  # of the tokens that are no special ones

    @classmethod
    def read(cls, path: Path) -> "Served":
        tokenizer = Tokenizer(path.read_text(), None)
        library = HuggingFaceTokenizer.from_file(str(path))
        size = max(library.get_vocab().values()) + 1
        ordinary = [token for token in range(size) if token not in set(tokenizer.special_tokens)]
        return cls(tokenizer, library, size, {tokenizer.token_bytes(token): token for token in ordinary})

    @property
    def ids(self) -> st.SearchStrategy[int]:
        return st.integers(0, self.size - 1)


@pytest.fixture(scope="session")
def served(model_repository: Path) -> Callable[[str], Served]:
    """The tokenizer of a served model, by the model's name; all versions of one have the same."""
    return cache(lambda name: Served.read(next((model_repository / name).glob("*/tokenizer.json"))))


def shown_pieces(
    tokenizer: Tokenizer, prompt: list[int], tokens: list[int], stop: tuple[str, ...] = ()
) -> tuple[list[str], bool]:
    """The pieces as the engine sends them, and whether a stop string ended them."""
    stream = tokenizer.decode_stream(prompt, stop)
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.finish())
    return pieces, stream.stopped


def whole_text(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """What they add to a text, whatever stands before them: half a character there stays one."""
    return shown(b"".join(tokenizer.token_bytes(token) for token in tokens if token not in tokenizer.special_tokens))


@st.composite
def any_tokens_of(draw: st.DrawFn, by_bytes: dict[bytes, int], text: str) -> list[int]:
    """The text's bytes cut into tokens in any way, not only in the one that the tokenizer itself would choose."""
    content, tokens, place = text.encode(), [], 0
    while place < len(content):
        cuts = [content[place : place + size] for size in range(1, LONGEST_TOKEN + 1) if place + size <= len(content)]
        possible = [cut for cut in cuts if cut in by_bytes]
        assume(possible)
        chosen = draw(st.sampled_from(possible))
        tokens.append(by_bytes[chosen])
        place += len(chosen)
    return tokens


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), text=texts)
def test_a_text_cut_into_any_tokens_comes_whole_and_without_half_characters(served, name: str, data, text: str) -> None:
    tokenizer = served(name).tokenizer
    pieces, stopped = shown_pieces(tokenizer, tokenizer.encode("The"), data.draw(any_tokens_of(served(name).by_bytes, text)))
    assert "".join(pieces) == text and not stopped


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.text(alphabet=ALPHABET, max_size=12), max_size=5))
def test_a_text_of_a_character_model_comes_whole(served, parts: list[str]) -> None:
    tokenizer = served(CHARACTERS).tokenizer
    tokens = [token for part in parts for token in tokenizer.encode(part)]
    assert "".join(shown_pieces(tokenizer, tokenizer.encode("The"), tokens)[0]) == "".join(parts)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_tokens_after_any_prompt_give_what_decoding_at_once_gives(served, name: str, data) -> None:
    tokenizer = served(name).tokenizer
    ids = st.lists(served(name).ids, max_size=30)
    prompt, tokens = data.draw(ids), data.draw(ids)
    assert "".join(shown_pieces(tokenizer, prompt, tokens)[0]) == whole_text(tokenizer, tokens)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_nothing_of_a_stop_string_nor_after_it_is_ever_sent(served, name: str, data) -> None:
    tokenizer = served(name).tokenizer
    prompt = tokenizer.encode("The")
    tokens = data.draw(st.lists(served(name).ids, min_size=1, max_size=25))
    whole = whole_text(tokenizer, tokens)
    places = st.integers(0, max(len(whole) - 1, 0))
    inside = st.builds(lambda place, size: whole[place : place + size] or "x", places, st.integers(1, 12))
    stop = tuple(data.draw(st.lists(inside | st.text(min_size=1, max_size=3), min_size=1, max_size=4)))
    pieces, stopped = shown_pieces(tokenizer, prompt, tokens, stop)
    sent = "".join(pieces)
    assert whole.startswith(sent) and not any(string in sent for string in stop)
    if stopped:  # which of two that overlap ends a text, the one that begins or ends first, is up to the tokens
        assert any(whole.startswith(string, len(sent)) for string in stop)
    else:
        assert sent == whole


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_bytes_of_tokens_joined_are_the_bytes_of_their_text(served, name: str, data) -> None:
    tokenizer = served(name).tokenizer
    ordinary = served(name).ids.filter(lambda token: token not in tokenizer.special_tokens)
    tokens = data.draw(st.lists(ordinary, max_size=30))
    joined = b"".join(map(tokenizer.token_bytes, tokens))
    assert joined.decode(errors="replace") == tokenizer.decode(tokens) == served(name).library.decode(tokens)
    assert all(tokenizer.token_text(token) == tokenizer.token_bytes(token).decode(errors="replace") for token in tokens)
