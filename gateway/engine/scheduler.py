"""Which sequences take part in the next step, and with how many tokens. Knows neither HTTP nor Triton."""

from collections.abc import Callable

from gateway.engine.lookahead import Ahead, Lookahead
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepRow

MOST_SCORED = 8  # prompts per step: with 32 positions each, half of what the contract's MORE_POSITIONS allows

# (tokens that a step decodes, including drafts; number of waiting prompts) → how many prompt tokens the step may compute.
Budget = Callable[[int, int], int]
Batch = list[tuple[Sequence, StepRow]]


def next_batch(running: list[Sequence], lookahead: Lookahead, budget: Budget) -> tuple[Batch, float | None]:
    """The rows of the next step, in order of admission, and its time budget. No rows if there is nothing to do.

    Continuous batching: every decoding sequence takes part in every step with one token plus what ``lookahead`` adds.
    Prefills share ``budget`` tokens per step, so that long prompts delay running sequences by a bounded time.
    """
    decoding = [sequence for sequence in running if _decodes(sequence)]
    prefills = _prefills(running)
    ahead = lookahead.plan(decoding, prompts_wait=bool(prefills)) if decoding else Ahead()
    decoded = len(decoding) + sum(ahead.drafts.values())
    limits = _shares(prefills, budget(decoded, len(prefills))) if prefills else {}
    rows = []
    for sequence in running:
        if _decodes(sequence):
            row = sequence.row(1, ahead.drafts.get(sequence, 0), ahead.run_ahead.get(sequence, 0))
            rows.append((sequence, row))
        elif sequence in limits:
            rows.append((sequence, sequence.row(token_limit=limits[sequence])))
    return rows, ahead.time_budget


def _decodes(sequence: Sequence) -> bool:
    return sequence.num_uncomputed_tokens == 1 and not sequence.scoring


def _prefills(running: list[Sequence]) -> dict[Sequence, int]:
    """Sequences that may be prefilled now, with an estimate of how many tokens each takes. Of sequences with the same prompt
    (the choices of one request), the first is computed alone, so that the others find it cached."""
    prefills, scored = {}, 0
    first: dict[int, Sequence] = {}  # by prompt
    for sequence in running:
        leader = first.setdefault(id(sequence.request.prompt_tokens), sequence)
        follows = leader is not sequence and sequence.cached == 0
        scored += sequence.scoring
        if sequence.scoring and scored > MOST_SCORED:
            continue
        if not _decodes(sequence) and not (follows and leader.cached < leader.length - 1):
            found = follows and not sequence.scoring  # the prompt is cached; after a lost cache its own output is not
            prefills[sequence] = 1 + sequence.generated_tokens if found else sequence.num_uncomputed_tokens
    return prefills


def _shares(prefills: dict[Sequence, int], budget: int) -> dict[Sequence, int]:
    """The oldest prompt gets half of the budget, so that it finishes. The others get the rest, shortest first, so that a short
    prompt does not wait for a long one. Whatever is left over goes to the oldest."""
    oldest, *others = prefills
    share = budget - budget // 2 if others else budget
    limits = {oldest: share}
    left = budget - min(share, prefills[oldest])
    for sequence in sorted(others, key=lambda one: prefills[one]):
        if left > 0:
            limits[sequence] = left
            left -= min(left, prefills[sequence])
    limits[oldest] += left if prefills[oldest] > share else 0
    return limits
