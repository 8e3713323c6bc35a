"""A proposer guesses what followed where the text's end stood before; its tables agree with a plain search."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.ngram_proposer import CERTAIN, LONGEST_GRAM, LONGEST_MATCH, NgramProposer

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=80)  # few kinds, so that there are many matches
CAPACITY = 4096  # so that no two n-grams of these tokens share a table's entry


class Text:
    """A text whose proposer has read the first ``prompt`` of its tokens at once, and the others one by one."""

    def __init__(self, tokens: list[int], prompt: int) -> None:
        self.array = np.zeros(CAPACITY, np.int32)
        self.array[:prompt] = tokens[:prompt]
        self.length = prompt
        self.proposer = NgramProposer(self.array, prompt)
        for token in tokens[prompt:]:
            self.append(token)

    def append(self, token: int) -> None:
        self.array[self.length] = token
        self.length += 1
        self.proposer.read_to(self.length)

    def draft(self, count: int) -> list[int]:
        return self.proposer.draft(count).tolist() if self.proposer.chances(count) else []


def matched(tokens: list[int], place: int) -> int:
    """How many tokens before ``place`` are the last ones of the text."""
    return next((back for back in range(place) if tokens[place - 1 - back] != tokens[-1 - back]), place)


def continued(tokens: list[int], place: int, count: int) -> list[int]:
    """What follows from ``place`` on, and again what was found, where the text ends."""
    tokens, end = list(tokens), len(tokens)
    for ahead in range(count):
        tokens.append(tokens[place + ahead])
    return tokens[end:]


@settings(max_examples=500, deadline=None)
@given(TOKENS, st.integers(1, 80), st.integers(1, 7))
def test_every_draft_is_what_followed_the_end_of_the_text_somewhere_before(tokens: list[int], prompt: int, count: int) -> None:
    draft = Text(tokens, min(prompt, len(tokens))).draft(count) if prompt < len(tokens) else Text(tokens, 1).draft(count)
    places = [place for place in range(1, len(tokens)) if matched(tokens, place)]
    assert draft in [continued(tokens, place, count) for place in places] if places else draft == []


@settings(max_examples=500, deadline=None)
@given(TOKENS, st.integers(0, 3))
def test_what_follows_a_wrong_guess_is_looked_up_by_the_longest_end_and_where_that_stood_last(
    tokens: list[int], new: int
) -> None:
    tokens = [*tokens, 8, new]  # an 8 is what no guess expects
    text = Text(tokens, len(tokens) - 2)
    matches = {place: min(LONGEST_GRAM, matched(tokens, place)) for place in range(1, len(tokens))}
    longest = max(matches.values())
    assert text.draft(1) == [tokens[place] for place, match in matches.items() if match == longest > 0][-1:]


@settings(max_examples=200, deadline=None)
@given(TOKENS, st.integers(1, 79))
def test_a_text_read_at_once_and_token_by_token_is_remembered_alike(tokens: list[int], prompt: int) -> None:
    tokens = [*tokens, 5, 6, 7]  # the end of any guess
    at_once, one_by_one = Text(tokens, len(tokens)), Text(tokens, 1)
    for token in (tokens[0], 8):
        at_once.append(token)
        one_by_one.append(token)
        assert at_once.draft(4) == one_by_one.draft(4)


def test_a_place_is_followed_for_as_long_as_it_guesses_right() -> None:
    text = Text([1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 8)
    assert text.draft(2) == [4, 8]  # the last occurrence
    text.append(3)
    assert text.draft(2) == [9, 1]  # the longest: 1, 2, 3
    text.append(9)
    assert text.draft(1) == [1]


def test_a_repetition_is_drafted_beyond_the_end_of_the_text() -> None:
    assert Text([7, 1, 2, 3, 1, 2, 3], 6).draft(7) == [1, 2, 3, 1, 2, 3, 1]


def test_nothing_is_drafted_where_nothing_repeats() -> None:
    text = Text(list(range(100)), 50)
    assert text.proposer.chances(7) == [] and Text([3], 1).proposer.chances(7) == []


@settings(max_examples=200, deadline=None)
@given(TOKENS, st.integers(0, 9))
def test_chances_fall_and_none_is_certain(tokens: list[int], most: int) -> None:
    chances = Text([*tokens, tokens[0]], 1).proposer.chances(most)
    assert len(chances) in (0, most)
    assert all(0 <= later <= earlier * CERTAIN for earlier, later in zip([1.0, *chances], chances, strict=False))


def test_hit_rates_are_learned_from_guesses_that_nobody_drafted() -> None:
    same = Text([1, 2, 3] * 100, 1)
    assert same.proposer.chances(1)[0] > 0.9
    other = Text([token for number in range(100) for token in (1, 2, 10 + number)] + [1, 2], 1)
    assert other.draft(1) == [109] and other.proposer.chances(1)[0] < 0.1


def test_memory_is_bounded_by_what_the_text_may_become() -> None:
    generator = np.random.default_rng(0)
    array = np.zeros(4096, np.int32)
    proposer = NgramProposer(array, 1)
    for length in range(1, 4096):
        array[length] = generator.integers(0, 50_000)
        proposer.read_to(length + 1)
    entries = sum(table.nbytes for table in proposer._tables)
    assert entries <= 48 * len(array)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=LONGEST_MATCH + 3))
def test_any_token_may_be_in_a_text(tokens: list[int]) -> None:
    assert Text(tokens * 2, 1).draft(1) in ([], *([token] for token in tokens))
