"""Finds ways to complete an output that follows a grammar, so that it is whole when its tokens run out.

llguidance does not expose its automaton, only which tokens may come next. So a way is searched for once, thoroughly, and then
updated from token to token, which takes microseconds: what completed the output before mostly still does. All work is counted,
not timed, so that the same seed gives the same text.
"""

from collections import Counter
from dataclasses import dataclass

import llguidance

from gateway.text.grammar_library import Vocabulary

LONGEST_WAY = 1024  # tokens; an output that needs more to end may be cut off
# Over its last STEERED tokens, an output is kept within reach of a way to its end.
STEERED = 1024
LONGEST_STRAIGHTENED = 256  # tokens of a way
BYTES_A_TOKEN = 4  # a search gives up beyond this many tokens per token of its limit
CIRCLE = 3  # times that a search sees the same allowed tokens before it tries others than the usual closers
FREE_TEXT = 1000  # if more tokens than these may follow, the position is inside a quoted string, which only a quote ends
LONGEST_PAUSE = 31  # tokens
SHIFTS = 4  # bytes by which a way may become shorter from one token to the next, besides the token's own length
# Work is counted in bytes that llguidance reads, about 0.1 µs each; a mask takes as long as hundreds of them.
MASK, FORCED, COPY = 300, 20, 30
FIRST_SEARCH = 2_000_000
PROBES = 500  # masks that a search may compute to escape circles
# Work budget of one output: an initial amount, and more with every token, so that no output delays others for long.
SAVINGS, INCOME, SEARCH = 200_000, 1_000, 30_000


@dataclass(frozen=True)
class Ways:
    """The result of a grammar's trial: ways from the start of an output, shortest first, and ``hints``: tokens that may end a
    lexeme that only certain texts can end, such as the `.com` of `\\.com$`."""

    ways: list[bytes]
    hints: list[list[int]]


class Work:
    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, amount: int) -> bool:
        """Spends work from the budget. Returns whether the budget sufficed."""
        self.left -= amount
        return self.left >= 0


class Completion:
    """Keeps track of the known way to the end of one output, from token to token."""

    def __init__(self, vocabulary: Vocabulary, ways: Ways, closes_with: int) -> None:
        self._vocabulary, self._closes_with = vocabulary, closes_with
        self._hints, self._others = ways.hints, ways.ways
        self._way = ways.ways[0] if ways.ways else None
        self._strayed = b""  # bytes written since leaving the way
        self._savings = SAVINGS
        self._shrinks = False  # whether the way has recently become shorter with each token
        self._patience = self._pause = 0  # tokens until the next search after a failed one: more each time

    def begin_with(self, text: bytes) -> None:
        """Starts with ``text`` already written."""
        self._keep_others(text)
        self._way = self._others[0] if self._others else None
        self._strayed = b"" if self._others else text[-LONGEST_WAY:]

    def steer(self, state: llguidance.LLMatcher, token: int, left: int) -> int | None:
        """Returns ``token``, or the one to take instead so that the output can end within ``left`` tokens, including this one;
        None if the output should end here. ``state`` is the state before the token and is not changed."""
        written = self._strayed + self._vocabulary.trie.decode_bytes([token])
        way = self._way_after(state, token, written, left - 1)
        if way is not None:
            self._way, self._strayed = way, b""
        elif self._way is not None and not self._strayed and left <= STEERED and len(known := self._cut(self._way)) <= left:
            if not known:
                return None
            token = known[0]
            self._way = self._way[len(self._vocabulary.trie.decode_bytes([token])) :]
        else:
            self._strayed = written[-LONGEST_WAY:]
        self._keep_others(self._vocabulary.trie.decode_bytes([token]))
        return token

    def _keep_others(self, written: bytes) -> None:
        """Keeps those of the trial's ways that the output still follows."""
        self._others = [way[len(written) :] for way in self._others if way.startswith(written)]

    def _way_after(self, state: llguidance.LLMatcher, token: int, written: bytes, limit: int) -> bytes | None:
        """Returns a way after ``token`` of at most ``limit`` tokens, or None if none is found."""
        if self._way is not None and written and self._way.startswith(written):
            rest = self._way[len(written) :]
            return rest if len(rest) <= limit or len(self._cut(rest)) <= limit else None
        new = self._vocabulary.trie.decode_bytes([token])
        for other in self._others:
            if other.startswith(new) and len(self._cut(rest := other[len(new) :])) <= limit:
                return rest
        work = Work(min(SEARCH, self._savings))
        self._savings -= work.left
        found = self._kept_up(state, token, written, limit, work)
        if found is None and self._pause <= 0:
            after = state.deep_copy()
            after.consume_token(token)
            search = Search(self._vocabulary, self._hints, self._closes_with, work)
            found = None if after.is_error() else search.from_here(after, limit)
            self._patience = min(2 * self._patience + 1, LONGEST_PAUSE) if found is None and self._strayed else 0
            self._pause = self._patience + 1
        self._pause -= 1
        self._savings = min(SAVINGS, self._savings + max(0, work.left) + INCOME)
        return found

    def _kept_up(self, state: llguidance.LLMatcher, token: int, written: bytes, limit: int, work: Work) -> bytes | None:
        """Returns the same way, or without its start: if the grammar counts characters, fewer are needed now."""
        if self._way is None:
            return None
        half, characters = _half_character(written), len(written.decode(errors="replace"))
        shifts = [characters, 0] if self._shrinks else [0, characters]
        for shift in dict.fromkeys([*shifts, *range(1, SHIFTS + 1)]):
            way = half + self._way[shift:]
            tokens = self._cut(way)
            if len(tokens) > limit + SHIFTS + characters or not work.take(COPY + 2 * len(way)):
                return None
            asked = [token, *tokens, self._vocabulary.end]
            if shift <= len(self._way) and len(tokens) <= limit and state.validate_tokens(asked) == len(asked):
                self._shrinks = shift == characters
                return way
        return None

    def _cut(self, way: bytes) -> list[int]:
        return self._vocabulary.cut(way) or self._vocabulary.spelled(way)


class Search:
    """Searches for a way from scratch. Deterministic: the same state gives the same result."""

    def __init__(
        self, vocabulary: Vocabulary, hints: list[list[int]], closes_with: int, work: Work, *, plain: bool = False
    ) -> None:
        """``closes_with``: the token after a lexeme that one of ``hints`` ends. ``plain``: everything is quoted text."""
        self._vocabulary, self._hints, self._closes_with, self._work = vocabulary, hints, closes_with, work
        self._plain = plain
        self._probes = PROBES

    def from_here(self, matcher: llguidance.LLMatcher, limit: int) -> bytes | None:
        """Returns a few bytes after which the output may end; None if none are found within ``limit`` tokens and the budget."""
        half = self._work.left // 2
        way = self._walk(matcher, limit, Work(half), circles_allowed=LONGEST_WAY)
        self._work.left -= half
        if way is None:
            way = self._walk(matcher, limit, self._work, circles_allowed=CIRCLE)
        if way is None:
            return None
        text = self._vocabulary.trie.decode_bytes(way)
        return text if min(len(way), len(self._vocabulary.cut(text)) or len(way)) <= limit else None

    def _walk(self, matcher: llguidance.LLMatcher, limit: int, work: Work, circles_allowed: int) -> list[int] | None:
        """Takes forced tokens, else a hint that ends the current lexeme, else a usual closer. If that goes round in circles, as
        in `[a-f]+x`, takes the least recently taken character.

        A circle is the same token CIRCLE times in a row, or the same set of allowed tokens more than ``circles_allowed`` times.
        """
        state, way, circles = matcher.deep_copy(), list[int](), False
        seen, last_taken = Counter[bytes](), dict[int, int]()
        while not state.is_accepting():
            if not (taken := self._forced(state, work)):
                if not work.take(MASK):
                    return None
                mask = state.compute_bitmask()
                seen[mask] += 1
                circling = seen[mask] > circles_allowed or (len(way) >= CIRCLE and len(set(way[-CIRCLE:])) == 1)
                circles = circles or circling
                another = self._another(state, mask, seen, last_taken, work) if circling else []
                taken = self._hint(state, mask, work) or another or self._closer(mask)
                last_taken[taken[0] if taken else 0] = len(way)
            way += taken
            spent = not taken or len(way) > BYTES_A_TOKEN * limit or not work.take(COPY + len(taken))
            if spent or not state.consume_tokens(taken):
                return None
        return self._straightened(matcher, way, work) if circles and len(way) <= LONGEST_STRAIGHTENED else way

    def _forced(self, state: llguidance.LLMatcher, work: Work) -> list[int]:
        work.take(FORCED)
        forced = self._vocabulary.cut(state.compute_ff_bytes())
        return forced[: state.validate_tokens(forced)] if forced else []

    def _hint(self, state: llguidance.LLMatcher, mask: bytes, work: Work) -> list[int]:
        """Returns tokens that end the current lexeme and what follows it; empty if it has ended or no hint fits."""
        end = [] if self._closes_with == self._vocabulary.end else [self._closes_with]
        if not _has(mask, self._closes_with):
            for hint in self._hints:
                if _has(mask, hint[0]) and self._reads(state, [*hint, self._closes_with], work):
                    return hint + end
        return []

    def _another(
        self, state: llguidance.LLMatcher, mask: bytes, seen: Counter[bytes], last_taken: dict[int, int], work: Work
    ) -> list[int]:
        """Returns the character that leads to the rarest set of allowed tokens so far; of equals, the least recently taken."""
        plain = [token for byte, token in self._vocabulary.single_bytes.items() if byte < 0x80 and _has(mask, token)]
        plain.sort(key=lambda token: last_taken.get(token, -1))
        best, fewest = plain[:1], seen[mask]
        for token in plain:
            if not fewest or not self._probes or not work.take(MASK + COPY):
                break
            self._probes -= 1
            after = state.deep_copy()
            if after.consume_token(token) and after.is_accepting():
                return [token]
            met = fewest if after.is_error() else seen[after.compute_bitmask()]
            if met < fewest:
                best, fewest = [token], met
        return best

    def _closer(self, mask: bytes) -> list[int]:
        allowed = int.from_bytes(mask, "little") & ~(1 << self._vocabulary.end)
        closers = self._vocabulary.closers
        if self._plain or allowed.bit_count() > FREE_TEXT:
            closers = self._vocabulary.text_closers
        for token in (*closers, *self._vocabulary.single_bytes.values()):
            if _has(mask, token):
                return [token]
        return [(allowed & -allowed).bit_length() - 1] if allowed else []

    def _straightened(self, matcher: llguidance.LLMatcher, way: list[int], work: Work) -> list[int]:
        """Removes every part of the way that can be left out."""
        length = len(way) // 2
        while length:
            begin = 0
            while begin + length <= len(way):
                shorter = way[:begin] + way[begin + length :]
                if self._reads(matcher, [*shorter, self._vocabulary.end], work):
                    way = shorter
                else:
                    begin += length
            length //= 2
        return way

    def _reads(self, state: llguidance.LLMatcher, tokens: list[int], work: Work) -> bool:
        """Whether all these tokens may come next. llguidance's own end token stands for the end of the output."""
        return work.take(COPY + len(tokens)) and state.validate_tokens(tokens) == len(tokens)


def _half_character(text: bytes) -> bytes:
    """Returns bytes that complete a partial UTF-8 character at the end of ``text``."""
    for length in range(1, min(3, len(text)) + 1):
        first = text[-length]
        if first >= 0xC0:
            rest = (2 if first < 0xE0 else 3 if first < 0xF0 else 4) - length
            return (bytes([{0xE0: 0xA0, 0xF0: 0x90}.get(first, 0x80) if length == 1 else 0x80]) + b"\x80\x80")[: max(0, rest)]
        if first < 0x80:
            break
    return b""


def _has(mask: bytes, token: int) -> bool:
    return bool(mask[token >> 3] >> (token & 7) & 1)
