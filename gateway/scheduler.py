"""Which sequences take part in the next step, and with how many tokens. Knows neither HTTP nor Triton."""

from collections.abc import Callable, Mapping

from gateway.sequence import Sequence
from gateway.step import StepRow

Plan = Callable[[list[Sequence]], Mapping[Sequence, int]]  # of the texts that decode: how many tokens each drafts


def rows_of(running: list[Sequence], prefill_chunk: int, plan: Plan) -> list[tuple[Sequence, StepRow]]:
    """The rows of the next step, in the order of admission; empty where nothing is to be done.

    Continuous batching: every sequence that decodes takes part in every step with one token, and with the drafts that ``plan``
    gives it. Prefills share ``prefill_chunk`` tokens a step, first come first served, so that a long prompt delays the running
    texts by a bounded time. Of sequences with the same prompt (the choices of one request) the first is computed alone: the
    others then find it cached.
    """
    rows = []
    drafts = plan([sequence for sequence in running if _decodes(sequence)])
    budget = prefill_chunk
    first: dict[int, Sequence] = {}  # by prompt
    for sequence in running:
        leader = first.setdefault(id(sequence.request.prompt_tokens), sequence)
        follows = leader is not sequence and sequence.cached == 0
        if _decodes(sequence):
            rows.append((sequence, sequence.row(token_limit=1, drafts=drafts.get(sequence, 0))))
        elif budget > 0 and not (follows and leader.cached < leader.length - 1):
            rows.append((sequence, sequence.row(token_limit=budget)))
            budget -= 1 if follows else sequence.missing
    return rows


def _decodes(sequence: Sequence) -> bool:
    return sequence.missing == 1 and not sequence.scoring
