"""The form of /v1/completions: whole, and as pieces of the same shape."""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

from gateway.api.response_models import Completion, CompletionChoice, CompletionLogprobs
from gateway.api.schemas import CompletionBody
from gateway.api.serializers.common import Identity, Tally, finite, usage_in_pieces
from gateway.engine.generation import Delta, TokenLogprob
from gateway.text.model import Model


class CompletionSerializer:
    """``texts``: the prompts as `echo` shows them."""

    def __init__(self, body: CompletionBody, model: Model, prompts: list[list[int]], texts: list[str]) -> None:
        self._body, self._texts = body, texts
        self._identity = Identity.new("cmpl-", model)
        self._tally = Tally(prompts, body.copies)
        self._special = set(model.tokenizer.special_tokens)  # an answer's text leaves them out
        # Where the next token of a text begins, in characters from the beginning of its prompt.
        self._offset: dict[int, int] = defaultdict(int)
        if not body.echo:
            self._offset |= {index: len(texts[index // body.copies]) for index in range(len(texts) * body.copies)}

    def whole(self, answers: list[Delta]) -> Completion:
        for answer in answers:
            self._tally.note(answer)
        choices = [self._choice(answer, first=True) for answer in _best(answers, self._body.copies, self._body.n)]
        return self._identity.envelope("text_completion") | {"choices": choices, "usage": self._tally.usage()}  # type: ignore[return-value]

    async def events(self, deltas: AsyncIterator[Delta]) -> AsyncGenerator[dict[str, Any], None]:
        options = self._body.stream_options
        head = self._identity.envelope("text_completion")
        begun: set[int] = set()
        async for delta in deltas:
            self._tally.note(delta)
            end = usage_in_pieces(options, self._tally)
            yield head | {"choices": [self._choice(delta, first=delta.index not in begun)]} | end
            begun.add(delta.index)
        if options.include_usage:
            yield head | {"choices": [], "usage": self._tally.usage()}

    def _choice(self, piece: Delta, *, first: bool) -> CompletionChoice:
        """``first``: nothing of this text was told before, so an echo of the prompt comes with it."""
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = self._logprobs(piece.index, piece.prompt_logprobs if self._body.echo else (), piece.logprobs)
        return {
            "index": piece.index,
            "text": self._texts[piece.index // self._body.copies] + piece.text if self._body.echo and first else piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(
        self, index: int, echoed: tuple[TokenLogprob, ...], generated: tuple[TokenLogprob, ...]
    ) -> CompletionLogprobs:
        tokens, offsets = echoed + generated, []
        shown = [*self._echoed(echoed, index), *map(self._generated, generated)]
        if echoed:  # what the tokenizer has put before the prompt, a space, stands before its beginning
            self._offset[index] = len(self._texts[index // self._body.copies]) - sum(map(_characters, shown[: len(echoed)]))
        for text in shown:
            begins_inside = len(text) > 0 and _is_continuation(text[0])
            offsets.append(max(0, self._offset[index] - begins_inside))
            self._offset[index] += _characters(text)
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }

    def _generated(self, token: TokenLogprob) -> bytes:
        """What of a token is in the text."""
        return b"" if token.token in self._special else token.bytes

    def _echoed(self, tokens: tuple[TokenLogprob, ...], index: int) -> list[bytes]:
        """The same of the prompt's tokens: special ones only where the prompt holds their names."""
        prompt = self._texts[index // self._body.copies]
        return [token.bytes if token.text in prompt else self._generated(token) for token in tokens]


def _best(answers: list[Delta], copies: int, n: int) -> list[Delta]:
    """Of each prompt's ``copies`` texts those ``n`` with the highest mean log-probability of a token, best first."""
    if copies == n:
        return answers
    chosen: list[Delta] = []
    for begin in range(0, len(answers), copies):
        ranked = sorted(answers[begin : begin + copies], key=_mean_logprob, reverse=True)[:n]
        chosen += (replace(answer, index=begin // copies * n + place) for place, answer in enumerate(ranked))
    return chosen


def _mean_logprob(answer: Delta) -> float:
    return sum(finite(token.logprob) for token in answer.logprobs) / max(1, len(answer.logprobs))


def _characters(text: bytes) -> int:
    """That begin in it."""
    return sum(not _is_continuation(byte) for byte in text)


def _is_continuation(byte: int) -> bool:
    """Of a character that began in an earlier byte, in UTF-8."""
    return byte & 0xC0 == 0x80


def _name(token: TokenLogprob) -> str:
    """Its text; half a character is named by its bytes, as at OpenAI, so that no two tokens share a name."""
    whole = token.text.encode() == token.bytes
    return token.text if whole else "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The most probable tokens, and the token itself where it is none of them."""
    if token.logprob is None:
        return None
    return {_name(other): finite(other.logprob) for other in (*token.top, token)}
