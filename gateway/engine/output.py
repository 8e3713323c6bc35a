"""Turns a sequence's tokens into output: whole characters, no part of a stop string, and log-probabilities."""

from collections import deque

from gateway.engine.generation import Delta, FinishReason, TokenLogprob
from gateway.text.tokenizer import TextStream


class Output:
    """Collects text and log-probabilities until they are taken."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self.text = ""  # safe to show, not taken yet
        self.prompt_logprobs: dict[int, TokenLogprob] = {}  # by index in the prompt
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()  # with the number of characters before the token
        self._prompt_taken = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stream.stop_string

    @property
    def stopped(self) -> bool:
        return self._stream.stopped

    def extend(self, tokens: list[int]) -> None:
        """Appends tokens at once; only if neither stop strings nor log-probabilities were requested."""
        self.text += self._stream.extend(tokens)

    def append(self, token: int, logprob: TokenLogprob | None, *, may_stop: bool) -> None:
        """Appends one token. Unless ``may_stop``, a stop string that ends with it is ignored."""
        if logprob is not None:
            self._logprobs.append((self._stream.decoded, logprob))
        self.text += self._stream.push(token, may_stop=may_stop)

    def finish(self, end_token: int | None) -> None:
        self.text += self._stream.finish(end_token)

    def take(self, index: int, tokens: int, finish_reason: FinishReason | None) -> Delta:
        """The output since the last call."""
        delta = Delta(self.text, tokens, finish_reason, index)
        self.text = ""
        if self._logprobs:
            delta.logprobs = self._shown_logprobs(everything=finish_reason is not None and not self.stopped)
        if not self._prompt_taken:
            delta.prompt_logprobs = tuple(self.prompt_logprobs[index] for index in sorted(self.prompt_logprobs))
            self._prompt_taken = True
        return delta

    def _shown_logprobs(self, everything: bool) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of tokens that begin within the shown text, or of ``everything``. Those of a stop string are never
        returned."""
        shown = []
        while self._logprobs and (everything or self._logprobs[0][0] < self._stream.shown):
            shown.append(self._logprobs.popleft()[1])
        return tuple(shown)
