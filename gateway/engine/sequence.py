"""One text being generated: its tokens, what of them is cached, and what of it waits for its reader."""

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

GATEWAY = secrets.randbits(GATEWAY_BITS)  # who is asking, where several gateways use one Triton
SCORED_AT_ONCE = 32  # tokens of a prompt whose logits come in one step: × vocabulary × 4 bytes


class Sequence:
    """The gateway's own copy of a sequence is the true one; Triton's cache may lose it at any time."""

    def __init__(self, request: GenerationRequest, model: Model, *, index: int = 0, speculation: bool = True) -> None:
        """``index``: which of a request's answers it is. ``speculation``: whether it drafts tokens, where its rules let one be
        chosen without those before it."""
        self.request, self.model = request, model
        prompt = request.prompt_tokens
        capacity = min(len(prompt) + request.max_tokens, model.context_length)
        self.id = GATEWAY << 64 - GATEWAY_BITS | secrets.randbits(64 - GATEWAY_BITS)
        self.index, self.record = index, AnswerRecord()
        self.sampling = request.sampling
        self.seed = secrets.randbits(64) if request.seed is None else request.seed % 2**64
        of = request.sampling
        self._rule = DrawingRule(of.temperature, of.top_k, of.top_p, of.min_p, self.seed)
        self.generated: Counter[int] = Counter()  # token → how often, where there are penalties
        self._counts = changes_logits(request.sampling)
        self.cached = 0  # tokens that Triton is believed to hold
        self.length = len(prompt)  # of the text so far, in tokens
        self._tokens = np.zeros(capacity, np.int32)
        self._tokens[: self.length] = prompt
        self.choosing = False  # its next token, in a thread: it takes part in no step meanwhile
        self.seconds_of_choice = 0.0  # of a processor, for the last token that was chosen there
        self.wake: Callable[[], None] = lambda: None  # the loop that it runs in
        self.suspect = False  # it took part in a step that failed: it is computed alone until it gets a token
        self.failed_alone = 0  # steps of its own, since its last token
        self._grammar = None if request.grammar is None else request.grammar.copy()
        self._needs_full_logits = needs_full_logits(request.sampling, model.candidates)
        self._proposer = NgramProposer(self._tokens, self.length) if speculation and not self._sequential else None
        self._drafts = 0  # of the row whose answer is being delivered
        self.credit = 0.0  # tokens that drafts have gained it, less what steps took longer for any text's drafts
        stop = request.stop if self._constraint is None else ()
        self._output = Output(model.tokenizer.decode_stream(prompt, stop, request.visible_tokens))
        self._taken_tokens = 0
        self._end_token: int | None = None  # that ended it: no part of the text
        self.push: Callable[[Sequence], None] = lambda _: None  # to the generation that it belongs to
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
        """Whether a Triton has ever held some of it."""
        return self.record.cached_tokens is not None

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that have to be computed before the next one can be sampled: 1 while decoding, more in a prefill."""
        return self.length - self.cached

    @property
    def generated_tokens(self) -> int:
        return self.length - len(self.request.prompt_tokens)

    @property
    def _constraint(self) -> Matcher | None:
        """The grammar that its text follows by now; it then ends where its form is whole, not at a stop string within it."""
        return self._grammar if self._grammar is not None and self._grammar.active else None

    @property
    def _sequential(self) -> bool:
        """Whether its next token depends on those before it; then it is chosen from whole rows of logits."""
        return self._needs_full_logits or self._constraint is not None

    @property
    def full_logits(self) -> bool:
        return self._sequential or self._held_open

    @property
    def scoring(self) -> bool:
        """Whether the log-probabilities of its prompt are asked for and not all known."""
        return self.request.prompt_logprobs is not None and len(self._output.prompt_logprobs) < len(self.request.prompt_tokens)

    @property
    def _held_open(self) -> bool:
        """Whether it is too short to end yet."""
        return self.generated_tokens < self.request.min_tokens

    def draft_chances(self, most: int) -> list[float]:
        """Of its next drafts, at most ``most``: how probably each and all before it are right."""
        if self._proposer is None or self._held_open or self._constraint is not None:
            return []
        self._proposer.read_to(self.length)
        return self._proposer.chances(min(most, len(self._tokens) - self.length - 1))

    @property
    def most_run_ahead(self) -> int:
        """Tokens that the backend may draw behind the last one: what they depend on is all known there."""
        return 0 if self._sequential or self._held_open or self.suspect else len(self._tokens) - self.length - 1

    def row(self, token_limit: int, drafts: int = 0, run_ahead: int = 0) -> StepRow:
        """Everything beyond what is cached; behind it drafts, no more than have chances, or what the backend draws itself.
        While it is scored, a chunk whose every position's logits are wanted."""
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
        """Takes over what Triton says it holds; guesses count when they are accepted. An unknown sequence begins again; one
        without a slot stays as it is. ``drafts``: how many of the row were computed."""
        self._drafts = drafts
        self.record.drafted += drafts
        if cached_length >= 0:
            if not self.was_scheduled:
                self.record.cached_tokens = reused_length
            self.cached = min(cached_length, self.length)
        elif cached_length == UNKNOWN:
            self.lose_cache()
        else:
            self.suspect = False  # the others go first: it would hold them up

    def lose_cache(self) -> None:
        """Its Triton has lost it, or is lost: all of it is computed again."""
        if self.cached:
            self.record.recoveries.append(time.monotonic())
        self.cached = 0

    def take_again(self) -> None:
        """A step that it took part in has failed, perhaps after its answer had come."""
        self.suspect = True
        if not self.choosing:
            self.cached = min(self.cached, self.length - 1)

    def note_prompt_logprob(self, place: int, logprob: TokenLogprob) -> None:
        self._output.prompt_logprobs[place] = logprob

    def chooses_slowly(self, seconds: float) -> bool:
        """Whether its grammar probably takes more than that for the next token."""
        grammar = self._constraint
        return grammar is not None and (grammar.begins_slowly or self.seconds_of_choice > seconds)

    def allowed(self) -> np.ndarray | None:
        """bool [vocabulary]: the tokens that may come next; None: all. Raises what `Matcher.allowed` raises."""
        allowed = None if (grammar := self._constraint) is None else grammar.allowed()
        if self._held_open and self.model.end_tokens:
            open_ended = np.ones(self.model.vocabulary_size, np.bool_) if allowed is None else allowed.copy()
            open_ended[list(self.model.end_tokens)] = False
            return open_ended if open_ended.any() else allowed
        return allowed

    def matched(self, token: int) -> int:
        """``token``, or another where the text could else not match its grammar before its length is reached. Called once for
        every token that is appended then."""
        return token if (grammar := self._constraint) is None else grammar.advance(token, len(self._tokens) - self.length)

    def append(self, tokens: list[int], logprobs: list[TokenLogprob] | None = None) -> None:
        """Takes the next tokens: all but the last were guessed, so Triton holds them already. Ends the text at an end token, a
        stop string, the asked length or the context's end; what comes behind is dropped. The reader hears of it from `notify`.
        """
        self.suspect, self.failed_alone = False, 0
        before = self.length
        if self._watched:
            self._append_one_by_one(tokens, logprobs)
        else:
            self._append_all(tokens)
        self.cached = min(self.cached + len(tokens) - 1, self.length - 1)  # what was guessed behind the last one is drawn again
        if self._drafts:
            accepted = min(self.length - before, len(tokens) - 1)
            self.record.accepted += accepted
            self.credit += accepted

    @property
    def _watched(self) -> bool:
        """Whether something is to be known of the text after every token."""
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
                break  # the tokens behind were chosen without its grammar
        self._end_at_length()

    def _append_all(self, tokens: list[int]) -> None:
        """All at once."""
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
        """Whether it ends the text."""
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
        """Where there is a piece for its reader."""
        if self._output.text or self.record.finish_reason is not None:
            self.push(self)

    def finish_without_text(self) -> None:
        """For a sequence that asked for no token."""
        self._finish("length")

    def fail(self, error: TidegateError) -> None:
        self.error = error
        self.push(self)

    def take(self) -> Delta:
        """What has come since it was last called."""
        before, self._taken_tokens = self._taken_tokens, self.record.tokens
        delta = self._output.take(self.index, self._taken_tokens - before, self.record.finish_reason)
        if self.request.return_token_ids:
            delta.token_ids = self._token_ids(before)
        return delta

    def _token_ids(self, begin: int) -> tuple[int, ...]:
        """Those generated from the ``begin``-th on."""
        end = () if self._end_token is None or begin == self.record.tokens else (self._end_token,)
        return (*self._tokens[len(self.request.prompt_tokens) + begin : self.length].tolist(), *end)

    def _finish(self, reason: FinishReason, end_token: int | None = None) -> None:
        self._end_token = end_token
        self._output.finish(end_token)
        self.record.stop_string = self._output.stop_string
        self.record.finish_reason = "stop" if self._output.stopped else reason
