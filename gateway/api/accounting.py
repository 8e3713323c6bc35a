"""A generation's account: what it takes of its key's limits, and what the log and the metrics tell of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from gateway.engine.generation import Delta
from gateway.http.rate_limits import KeyLimits
from gateway.telemetry.metrics import GenerationMetrics
from gateway.telemetry.request_record import RequestRecord
from gateway.text.model import Model


async def accounted(
    request: Request,
    model: Model,
    prompt_tokens: int,
    max_tokens: int,
    deltas: AsyncGenerator[Delta, None],
    *,
    copies: int = 1,
) -> AsyncGenerator[Delta, None]:
    """``deltas``, while the caller's limits are held. Closing it closes them. Raises RateLimited before the first piece.

    ``prompt_tokens``: of all prompts of the request together; ``max_tokens``: of all answers together. Both are reserved.
    ``copies``: answers to each prompt, next to each other.
    At the end what was not generated is given back; all of it where an error came before any text. A client that leaves
    has used its prompt, and what was generated.
    """
    record: RequestRecord = request.state.record
    limits: KeyLimits = request.state.limits
    async with aclosing(deltas):
        with limits.generation(prompt_tokens, max_tokens) as reservation:
            record.begin_generation(model.name, prompt_tokens)
            measured = GenerationMetrics(request.app.state.metrics, model.name, record)
            reservation.spent, finished = prompt_tokens, False
            try:
                async for delta in deltas:
                    reservation.spent += delta.tokens
                    record.note(delta, counts_cached=delta.index % copies == 0)
                    measured.note(delta)
                    if record.trace is not None:
                        record.trace.note(delta)
                    yield delta
                finished = True
            except Exception as error:
                record.error = error
                if record.first_token is None:
                    reservation.spent = 0
                raise
            finally:
                measured.end(finished)
