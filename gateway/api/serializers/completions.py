"""Response format of /v1/completions: whole, and as chunks of the same shape."""

from collections import defaultdict
from dataclasses import replace

from gateway.api.response_models import Completion, CompletionChoice, CompletionLogprobs
from gateway.api.schemas import CompletionBody
from gateway.api.serializers.common import (
    ChoiceSerializer,
    TextEvents,
    envelope,
    finite,
    prompt_logprob_objects,
    server_sent,
    usage_of,
)
from gateway.engine.generation import Delta, FinishReason, GenerationRecord, TokenLogprob
from gateway.text.model import Model


class CompletionSerializer(ChoiceSerializer):
    """``texts``: the prompts as `echo` shows them; ``prompts``: their tokens."""

    _body: CompletionBody

    def __init__(
        self, body: CompletionBody, model: Model, record: GenerationRecord, texts: list[str], prompts: list[list[int]]
    ) -> None:
        super().__init__(body, record, envelope("cmpl-", "text_completion", model))
        self._texts, self._prompts = texts, prompts
        self._text_events = TextEvents()
        self._special = set(model.tokenizer.special_tokens)  # left out of an output's text
        self._begun: set[int] = set()
        # Start of the next token of each output, in characters from the start of the prompt.
        self._offset: dict[int, int] = defaultdict(int)
        if not body.echo:
            self._offset |= {index: len(texts[index // body.n]) for index in range(len(texts) * body.n)}

    def whole(self, answers: list[Delta]) -> Completion:
        choices = [self._piece(answer) for answer in _best(answers, self._body.copies, self._body.n)]
        return self._head | {"choices": choices, "usage": usage_of(self._record)}  # type: ignore[return-value]

    def events(self, delta: Delta) -> bytes:
        if self._plain and delta.finish_reason is None and delta.index in self._begun:
            return self._text_events.write(delta, lambda text: self._event(_choice(delta.index, text)))
        return server_sent(self._event(self._piece(delta)))

    def _piece(self, piece: Delta) -> CompletionChoice:
        """Returns a piece as a choice. An output's first piece includes the echoed prompt."""
        text, logprobs, begins = piece.text, None, piece.index not in self._begun
        if self._body.echo and begins:
            text = self._texts[piece.index // self._body.n] + text
        self._begun.add(piece.index)
        if self._body.logprobs is not None:
            logprobs = self._logprobs(piece.index, piece.prompt_logprobs if self._body.echo else (), piece.logprobs)
        choice = _choice(piece.index, text, logprobs, piece.finish_reason)
        if self._body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprob_objects(piece.prompt_logprobs, self._body.prompt_logprobs)
        if self._body.return_token_ids:
            choice["token_ids"] = list(piece.token_ids)
            if begins:
                choice["prompt_token_ids"] = self._prompts[piece.index // self._body.n]
        return choice

    def _logprobs(
        self, index: int, echoed: tuple[TokenLogprob, ...], generated: tuple[TokenLogprob, ...]
    ) -> CompletionLogprobs:
        tokens, offsets = echoed + generated, []
        shown = [*self._echoed(echoed, index), *map(self._generated, generated)]
        if echoed:  # a space that the tokenizer adds before the prompt comes before offset 0
            self._offset[index] = len(self._texts[index // self._body.n]) - sum(map(_characters, shown[: len(echoed)]))
        for text in shown:
            begins_inside = len(text) > 0 and _is_continuation(text[0])
            offsets.append(max(0, self._offset[index] - begins_inside))
            self._offset[index] += _characters(text)
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token, self._body.logprobs or 0) for token in tokens],
            "text_offset": offsets,
        }

    def _generated(self, token: TokenLogprob) -> bytes:
        """Returns the part of a token that appears in the text."""
        return b"" if token.token in self._special else token.bytes

    def _echoed(self, tokens: tuple[TokenLogprob, ...], index: int) -> list[bytes]:
        """Does the same for prompt tokens: special ones appear only if the prompt contains their names."""
        prompt = self._texts[index // self._body.n]
        return [token.bytes if token.text in prompt else self._generated(token) for token in tokens]


def _choice(
    index: int, text: str, logprobs: CompletionLogprobs | None = None, finish_reason: FinishReason | None = None
) -> CompletionChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _best(answers: list[Delta], copies: int, n: int) -> list[Delta]:
    """Returns, of each prompt's ``copies`` outputs, the ``n`` with the highest mean token log-probability, best first."""
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
    """The number of characters that start in ``text``."""
    return sum(not _is_continuation(byte) for byte in text)


def _is_continuation(byte: int) -> bool:
    """Whether ``byte`` is a UTF-8 continuation byte."""
    return byte & 0xC0 == 0x80


def _name(token: TokenLogprob) -> str:
    """Returns the token's text. A partial character is named by its bytes, as in OpenAI's API, so that names are unique."""
    whole = token.text.encode() == token.bytes
    return token.text if whole else "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _top(token: TokenLogprob, alternatives: int) -> dict[str, float] | None:
    """Returns the most probable tokens, plus the token itself if it is not among them."""
    if token.logprob is None:
        return None
    return {_name(other): finite(other.logprob) for other in (*token.top[:alternatives], token)}
