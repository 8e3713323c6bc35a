"""Several answers to one request, generated at the same time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from gateway.engine.engine import Engine
from gateway.engine.generation import Delta, GenerationRequest

SEED_STEP = 0x9E3779B97F4A7C15  # odd, and far from what people choose: neighbouring seeds share no choice


def several(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """``n`` requests for the same prompt; with a seed, every one has its own, and the first the seed itself."""
    if request.seed is None:
        return [request] * n
    return [replace(request, seed=(request.seed + index * SEED_STEP) % 2**64) for index in range(n)]


async def generate_all(engine: Engine, requests: list[GenerationRequest]) -> AsyncGenerator[Delta, None]:
    """The pieces of all texts as they come, each with the place of its request in ``index``.

    An error of one ends all. Closing the generator frees all slots. Raises what `Engine.generate` raises.
    """
    if len(requests) == 1:  # what most are: a task a piece would cost more than the piece
        async with aclosing(engine.generate(requests[0])) as text:
            async for delta in text:
                yield delta
        return
    texts = [engine.generate(request) for request in requests]
    coming = {asyncio.ensure_future(anext(text)): index for index, text in enumerate(texts)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for piece in done:
                index = coming.pop(piece)
                delta = piece.result()
                if delta.finish_reason is None:
                    coming[asyncio.ensure_future(anext(texts[index]))] = index
                yield replace(delta, index=index) if index else delta
    finally:
        for piece in coming:
            piece.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for text in texts:
            await text.aclose()
