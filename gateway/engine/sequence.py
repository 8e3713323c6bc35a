"""One sequence: its tokens, how many of them are cached, and the output its reader has not taken yet."""

import secrets
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from backends.onnx_decoder.contract.drawing import DrawingRule
from backends.onnx_decoder.contract.limits import GATEWAY_BITS, UNKNOWN
from gateway.engine.generation import AnswerRecord, Delta, FinishReason, GenerationRequest, TokenLogprob
from gateway.engine.ngram_proposer import NgramProposer
from gateway.engine.output import Output
from gateway.engine.sampling import changes_logits, needs_full_logits
from gateway.engine.step import StepRow
from gateway.errors import TidegateError
from gateway.text.grammar import Matcher
from gateway.text.model import Model

GATEWAY = secrets.randbits(GATEWAY_BITS)  # identifies this gateway to a Triton that serves several
SCORED_AT_ONCE = 32  # prompt tokens whose logits are returned in one step: × vocabulary × 4 bytes


class Sequence:
    """The gateway's copy of a sequence is authoritative; Triton's KV cache may lose it at any time."""

    def __init__(self, request: GenerationRequest, model: Model, *, index: int = 0, speculation: bool = True) -> None:
        """``index``: which of the request's answers it is. ``speculation``: whether it drafts tokens, if its sampling rules let
        a token be selected independently of those before it."""
        self.request, self.model = request, model
        prompt = request.prompt_tokens
        capacity = min(len(prompt) + request.max_tokens, model.context_length)
        self.id = GATEWAY << 64 - GATEWAY_BITS | secrets.randbits(64 - GATEWAY_BITS)
        self.index, self.record = index, AnswerRecord()
        self.sampling = request.sampling
        self.seed = secrets.randbits(64) if request.seed is None else request.seed % 2**64
        of = request.sampling
        self._rule = DrawingRule(of.temperature, of.top_k, of.top_p, of.min_p, self.seed)
        self.generated: Counter[int] = Counter()  # token → occurrences; only counted if bias or penalties are set
        self._counts = changes_logits(request.sampling)
        self.cached = 0  # tokens believed to be in Triton's KV cache
        self.length = len(prompt)  # tokens so far, prompt included
        self._tokens = np.zeros(capacity, np.int32)
        self._tokens[: self.length] = prompt
        self.choosing = False  # its next token is being selected in a thread; until then it takes part in no step
        self.seconds_of_choice = 0.0  # CPU time, for the last token selected in a thread
        self.wake: Callable[[], None] = lambda: None  # wakes the replica's loop that it runs in
        self.suspect = False  # took part in a failed step: runs alone until it gets a token
        self.failed_alone = 0  # steps failed with it alone, since its last token
        self._grammar = None if request.grammar is None else request.grammar.copy()
        begins_constrained = self._grammar is not None and self._grammar.active
        self._needs_full_logits = needs_full_logits(request.sampling, model.candidates)
        drafts = speculation and not begins_constrained and not self._needs_full_logits
        self._proposer = NgramProposer(self._tokens, self.length) if drafts else None
        self._drafts = 0  # in the row whose answer is being delivered
        self.credit = 0.0  # tokens gained by its drafts, less those lost to steps slowed by any sequence's drafts
        stop = () if begins_constrained else request.stop
        self._output = Output(model.tokenizer.decode_stream(prompt, stop, request.visible_tokens))
        self._taken_tokens = 0
        self._end_token: int | None = None  # that ended it; not part of the output
        self.push: Callable[[Sequence], None] = lambda _: None  # reports to its generation
        self.error: TidegateError | None = None

    @property
    def ended(self) -> bool:
        return self.record.finish_reason is not None or self.failed

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def runnable(self) -> bool:
        """Whether it can take part in a step now."""
        return not self.choosing and not self.ended

    @property
    def was_scheduled(self) -> bool:
        """Whether a Triton has ever computed any of it."""
        return self.record.cached_tokens is not None

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more during prefill."""
        return self.length - self.cached

    @property
    def generated_tokens(self) -> int:
        return self.length - len(self.request.prompt_tokens)

    @property
    def _constraint(self) -> Matcher | None:
        """The grammar currently in force, if any. The sequence then ends when the grammar is complete, not at a stop string."""
        return self._grammar if self._grammar is not None and self._grammar.active else None

    @property
    def _sequential(self) -> bool:
        """Whether selecting its next token depends on those before it; then it is selected from whole rows of logits."""
        return self._needs_full_logits or self._constraint is not None

    @property
    def full_logits(self) -> bool:
        return self._sequential or self._held_open

    @property
    def scoring(self) -> bool:
        """Whether prompt log-probabilities were requested and some are still missing."""
        return self.request.prompt_logprobs is not None and len(self._output.prompt_logprobs) < len(self.request.prompt_tokens)

    @property
    def _held_open(self) -> bool:
        """Whether it is too short to end yet."""
        return self.generated_tokens < self.request.min_tokens

    def draft_chances(self, most: int) -> list[float]:
        """For each of its next drafts, at most ``most``: the probability that it and all before it are right."""
        if self._proposer is None or self._held_open or self._constraint is not None:
            return []
        self._proposer.read_to(self.length)
        return self._proposer.chances(min(most, len(self._tokens) - self.length - 1))

    @property
    def most_run_ahead(self) -> int:
        """How many further tokens the backend may draw by itself; 0 if it lacks something that selection depends on."""
        return 0 if self._sequential or self._held_open or self.suspect else len(self._tokens) - self.length - 1

    def row(self, token_limit: int, drafts: int = 0, run_ahead: int = 0) -> StepRow:
        """All uncached tokens, followed by drafts (no more than `draft_chances` returned) or tokens that the backend draws.
        While the prompt is scored: a chunk of it, with logits at every position."""
        trace = self.request.trace
        if self.scoring:
            tokens = self._tokens[self.cached : self.cached + min(token_limit, SCORED_AT_ONCE, self.num_uncomputed_tokens)]
            return StepRow(self.id, self.cached, tokens, len(tokens), len(tokens), full_logits=True, trace=trace)
        tokens = self._tokens[self.cached : self.length]
        if drafts and self._proposer is not None:
            tokens = np.concatenate([tokens, self._proposer.draft(drafts)])
            return StepRow(self.id, self.cached, tokens, len(tokens), 1 + drafts, drafts=drafts, trace=trace)
        if run_ahead:
            ignore_end = self.request.ignore_eos
            return StepRow(
                self.id,
                self.cached,
                tokens,
                token_limit,
                run_ahead=run_ahead,
                rule=self._rule,
                ignore_end=ignore_end,
                trace=trace,
            )
        return StepRow(self.id, self.cached, tokens, token_limit, full_logits=self.full_logits, trace=trace)

    def note_cached(self, cached_length: int, reused_length: int, drafts: int = 0) -> None:
        """Stores the cached length that Triton reported; drafts count once they are accepted. A sequence unknown to Triton
        starts over; one without a slot keeps its state. ``drafts``: how many drafts of the row were computed."""
        self._drafts = drafts
        self.record.drafted += drafts
        if cached_length >= 0:
            if not self.was_scheduled:
                self.record.cached_tokens = reused_length
            self.cached = min(cached_length, self.length)
        elif cached_length == UNKNOWN:
            self.lose_cache()
        else:
            self.suspect = False  # it has no slot and would hold up the others

    def lose_cache(self) -> None:
        """Called when Triton or its cache entry is lost: the whole sequence is computed again."""
        if self.cached:
            self.record.recoveries.append(time.monotonic())
        self.cached = 0

    def take_again(self) -> None:
        """Called when a step that it took part in failed, perhaps after the answer had arrived."""
        self.suspect = True
        if not self.choosing:
            self.cached = min(self.cached, self.length - 1)

    def note_prompt_logprob(self, place: int, logprob: TokenLogprob) -> None:
        self._output.prompt_logprobs[place] = logprob

    def chooses_slowly(self, seconds: float) -> bool:
        """Whether its grammar will probably take more than ``seconds`` for the next token."""
        grammar = self._constraint
        return grammar is not None and (grammar.begins_slowly or self.seconds_of_choice > seconds)

    def allowed(self) -> np.ndarray | None:
        """bool [vocabulary]: the tokens allowed next; None: all. Raises what `Matcher.allowed` raises."""
        allowed = None if (grammar := self._constraint) is None else grammar.allowed()
        if self._held_open and self.model.end_tokens:
            open_ended = np.ones(self.model.vocabulary_size, np.bool_) if allowed is None else allowed.copy()
            open_ended[list(self.model.end_tokens)] = False
            return open_ended if open_ended.any() else allowed
        return allowed

    def matched(self, token: int) -> int:
        """``token``, or another if the output could otherwise not complete its grammar within its length limit. Call it once
        per token; that token must then be appended."""
        return token if (grammar := self._constraint) is None else grammar.advance(token, len(self._tokens) - self.length)

    def append(self, tokens: list[int], logprobs: list[TokenLogprob] | None = None) -> None:
        """Appends the next tokens. All but the last were guessed, so they are already cached. Ends the sequence at an end
        token, a stop string, the requested length or the end of the context, and drops later tokens. `notify` tells the reader.
        """
        self.suspect, self.failed_alone = False, 0
        before = self.length
        if self._watched:
            self._append_one_by_one(tokens, logprobs)
        else:
            self._append_all(tokens)
        self.cached = min(self.cached + len(tokens) - 1, self.length - 1)  # cached drafts after the last token are discarded
        if self._drafts:
            accepted = min(self.length - before, len(tokens) - 1)
            self.record.accepted += accepted
            self.credit += accepted

    @property
    def _watched(self) -> bool:
        """Whether the output must be checked after every token."""
        request = self.request
        return bool(request.stop) or request.logprobs is not None or self._grammar is not None or self._held_open

    def _append_one_by_one(self, tokens: list[int], logprobs: list[TokenLogprob] | None) -> None:
        for index, token in enumerate(tokens):
            if self._note_token(token):
                return
            was_free = self._constraint is None
            if was_free and self._grammar is not None:
                self._grammar.watch(token)
            may_stop = not self._held_open and self._constraint is None
            self._output.append(token, None if logprobs is None else logprobs[index], may_stop=may_stop)
            if self._output.stopped or (self._grammar is not None and self._grammar.complete):
                self._finish("stop")
                return
            if was_free and self._constraint is not None:
                break  # later tokens were selected before the grammar came into force
        self._end_at_length()

    def _append_all(self, tokens: list[int]) -> None:
        ends = () if self.request.ignore_eos else self.model.end_tokens
        end = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
        self.record.tokens += min(end + 1, len(tokens))
        if self._counts:
            self.generated.update(tokens)
        self._tokens[self.length : self.length + end] = tokens[:end]
        self.length += end
        self._output.extend(tokens[:end])
        if end < len(tokens):
            self._finish("stop", tokens[end])
        else:
            self._end_at_length()

    def _note_token(self, token: int) -> bool:
        """Counts and stores a token. Returns whether it ends the sequence."""
        self.record.tokens += 1
        if self._counts:
            self.generated[token] += 1
        if token in self.model.end_tokens and (self._constraint is not None or not self.request.ignore_eos):
            self._finish("stop", token)
            return True
        self._tokens[self.length] = token
        self.length += 1
        return False

    def _end_at_length(self) -> None:
        if self.length == len(self._tokens):
            self._finish("length")

    def notify(self) -> None:
        """Tells the reader if there is new output."""
        if self._output.text or self.record.finish_reason is not None:
            self.push(self)

    def finish_without_text(self) -> None:
        """For a request with ``max_tokens`` 0."""
        self._finish("length")

    def fail(self, error: TidegateError) -> None:
        self.error = error
        self.push(self)

    def take(self) -> Delta:
        """The output since the last call."""
        before, self._taken_tokens = self._taken_tokens, self.record.tokens
        delta = self._output.take(self.index, self._taken_tokens - before, self.record.finish_reason)
        if self.request.return_token_ids:
            delta.token_ids = self._token_ids(before)
        return delta

    def _token_ids(self, begin: int) -> tuple[int, ...]:
        """Generated token ids from index ``begin`` on."""
        end = () if self._end_token is None or begin == self.record.tokens else (self._end_token,)
        return (*self._tokens[len(self.request.prompt_tokens) + begin : self.length].tolist(), *end)

    def _finish(self, reason: FinishReason, end_token: int | None = None) -> None:
        self._end_token = end_token
        self._output.finish(end_token)
        self.record.stop_string = self._output.stop_string
        self.record.finish_reason = "stop" if self._output.stopped else reason
