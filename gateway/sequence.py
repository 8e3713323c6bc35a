"""One text being generated: its tokens, what of them is cached, and the pieces that wait for its reader."""

import asyncio
import secrets
from collections import Counter

import numpy as np

from gateway.errors import TidegateError
from gateway.generation import Delta, FinishReason, GenerationRequest
from gateway.model import Model
from gateway.sampling import needs_full_logits
from gateway.step import UNKNOWN, StepRow


class Sequence:
    """The gateway's own copy of a sequence is the true one; Triton's cache may lose it at any time."""

    def __init__(self, request: GenerationRequest, model: Model) -> None:
        prompt = request.prompt_tokens
        capacity = min(len(prompt) + request.max_tokens, model.context_length)
        self.id = secrets.randbits(64)
        self.sampling = request.sampling
        self.seed = secrets.randbits(64) if request.seed is None else request.seed % 2**64
        self.full_logits = needs_full_logits(request.sampling, model.candidates)
        self.generated: Counter[int] = Counter()  # token → how often, for the penalties
        self.cached = 0  # tokens that Triton is believed to hold
        self.length = len(prompt)  # of the text so far, in tokens
        self._tokens = np.zeros(capacity, np.int32)
        self._tokens[: self.length] = prompt
        self._end_tokens = model.end_tokens
        self._text = model.tokenizer.decode_stream(prompt, request.stop)
        self._ready = asyncio.Event()
        self._pending_text, self._pending_tokens = "", 0
        self._finish_reason: FinishReason | None = None
        self._error: TidegateError | None = None

    @property
    def ended(self) -> bool:
        return self._finish_reason is not None or self._error is not None

    @property
    def missing(self) -> int:
        """Tokens that have to be computed before the next one can be sampled: 1 while decoding, more in a prefill."""
        return self.length - self.cached

    def row(self, token_limit: int) -> StepRow:
        tokens = self._tokens[self.cached : self.length]
        return StepRow(self.id, self.cached, tokens, token_limit, full_logits=self.full_logits)

    def note_cached(self, cached_length: int) -> None:
        """Takes over what Triton says it holds. An unknown sequence begins again; one without a slot stays as it is."""
        if cached_length >= 0:
            self.cached = cached_length
        elif cached_length == UNKNOWN:
            self.cached = 0

    def append(self, token: int) -> None:
        """Takes the sampled token; ends the text at an end token, a stop string, the asked length or the context's end."""
        self.generated[token] += 1
        self._pending_tokens += 1
        if token in self._end_tokens:
            self._finish("stop")
            return
        self._tokens[self.length] = token
        self.length += 1
        self._pending_text += self._text.push(token)
        if self._text.stopped:
            self._finish("stop")
        elif self.length == len(self._tokens):
            self._finish("length")
        elif self._pending_text:
            self._ready.set()

    def fail(self, error: TidegateError) -> None:
        self._error = error
        self._ready.set()

    async def next_delta(self) -> Delta:
        """Waits for text or the end. A slow reader gets all since its last piece at once. Raises what `fail` was given."""
        await self._ready.wait()
        self._ready.clear()
        if self._error is not None:
            raise self._error
        delta = Delta(self._pending_text, self._pending_tokens, self._finish_reason)
        self._pending_text, self._pending_tokens = "", 0
        return delta

    def _finish(self, reason: FinishReason) -> None:
        self._pending_text += self._text.finish()
        self._finish_reason = "stop" if self._text.stopped else reason
        self._ready.set()
