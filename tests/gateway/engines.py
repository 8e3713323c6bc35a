"""What tests of the engine share: an engine on a real Triton, and requests."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.choices import generate_all
from gateway.engine import Engine
from gateway.generation import Delta, GenerationRequest, SamplingParameters
from gateway.settings import Settings
from gateway.triton import TritonClient
from serve.triton_server import TritonServer
from tests.conftest import TINY

GREEDY = SamplingParameters(temperature=0.0)


@asynccontextmanager
async def engine_on(triton: TritonServer, name: str = TINY, **settings: int) -> AsyncIterator[Engine]:
    async with TritonClient(triton.grpc_address) as client:
        engine = Engine(client, await client.describe(name), replace(Settings(), **settings))
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()


def request(
    engine: Engine, prompt: str, sampling: SamplingParameters = GREEDY, tokens: int = 30, **more: Any
) -> GenerationRequest:
    """With seed 7, unless ``more`` names another."""
    return GenerationRequest(engine.model.tokenizer.encode(prompt), tokens, sampling, **({"seed": 7} | more))


async def pieces_of(engine: Engine, *requests: GenerationRequest) -> list[Delta]:
    async with aclosing(generate_all(engine, list(requests))) as deltas:
        return [delta async for delta in deltas]


async def text_of(engine: Engine, generation: GenerationRequest) -> str:
    return "".join(piece.text for piece in await pieces_of(engine, generation))
