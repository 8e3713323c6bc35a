"""Which sequences take part in the next step, and with how many tokens. Knows neither HTTP nor Triton."""

from collections.abc import Callable

from gateway.engine.lookahead import Ahead, Lookahead
from gateway.engine.sequence import Sequence
from gateway.engine.step import StepRow

MOST_SCORED = 8  # prompts a step: with 32 positions each half of what the contract's MORE_POSITIONS allows

# Of the tokens that a step decodes, drafts too, and of the prompts that wait: how many tokens of these it may compute.
Budget = Callable[[int, int], int]
Batch = list[tuple[Sequence, StepRow]]


def next_batch(running: list[Sequence], lookahead: Lookahead, budget: Budget) -> tuple[Batch, float | None]:
    """The rows of the next step, in the order of admission; empty where nothing is to be done. And its time budget.

    Continuous batching: every sequence that decodes takes part in every step with one token, and with what ``lookahead``
    gives it besides. Prefills share ``budget`` tokens a step, so that long prompts delay the running texts by a bounded time.
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
    """Those that may be computed, and how many tokens that takes, as far as is known here. Of sequences with the same prompt
    (the choices of one request) the first is computed alone: the others then find it cached."""
    prefills, scored = {}, 0
    first: dict[int, Sequence] = {}  # by prompt
    for sequence in running:
        leader = first.setdefault(id(sequence.request.prompt_tokens), sequence)
        follows = leader is not sequence and sequence.cached == 0
        scored += sequence.scoring
        if sequence.scoring and scored > MOST_SCORED:
            continue
        if not _decodes(sequence) and not (follows and leader.cached < leader.length - 1):
            found = follows and not sequence.scoring  # but for what it has written itself, where its cache was lost
            prefills[sequence] = 1 + sequence.generated_tokens if found else sequence.num_uncomputed_tokens
    return prefills


def _shares(prefills: dict[Sequence, int], budget: int) -> dict[Sequence, int]:
    """The oldest has half of the budget, so that it comes to an end; the others have the rest, the shortest first, so that a
    short prompt does not wait for a long one. What nobody else wants is the oldest's too."""
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
