"""What tests of the engine share: an engine on a real Triton, and requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gateway.engine.engine import Engine
from gateway.engine.generation import Delta, GenerationRecord, GenerationRequest, SamplingParameters
from gateway.engine.step import StepAnswer
from gateway.errors import BackendUnavailable
from gateway.settings import Settings
from gateway.text.model import Model
from gateway.triton.client import TritonClient
from serve.triton_server import TritonServer
from tests.conftest import TINY

GREEDY = SamplingParameters(temperature=0.0)
# By the Triton's process and the model's name: reading a tokenizer takes half a second.
_models: WeakKeyDictionary[TritonServer, dict[tuple[int, str], Model]] = WeakKeyDictionary()


def lengths_answer(cached: list[int], reused: list[int], drawn: list[int] | None = None, seconds: float = 0.0) -> StepAnswer:
    """An answer that says what is cached, and nothing of any token."""
    nothing = np.zeros((0, 1), np.float32)
    return StepAnswer(
        cached_length=np.array(cached),
        reused_length=np.array(reused),
        drawn_count=np.array(drawn or [0] * len(cached)),
        candidate_id=nothing,
        candidate_logit=nothing,
        log_normalizer=nothing,
        logits=nothing,
        drawn=np.zeros(0, np.int32),
        compute_seconds=seconds,
    )


@asynccontextmanager
async def engine_on(triton: TritonServer, name: str = TINY, **settings: int) -> AsyncIterator[Engine]:
    """Nothing runs ahead unless ``settings`` say so: who breaks something in mid-text needs a text that takes its time."""
    async with engine_on_all([triton], name, **settings) as engine:
        yield engine


@asynccontextmanager
async def engine_on_all(
    tritons: list[TritonServer], name: str = TINY, step_timeout: float = 30, **settings: int
) -> AsyncIterator[Engine]:
    clients = [TritonClient(triton.grpc_address, step_timeout) for triton in tritons]
    models = [await _model(triton, client, name) for triton, client in zip(tritons, clients, strict=True)]
    engine = Engine(models[0], replace(Settings(), **({"run_ahead": 0} | settings)))
    for triton, client, model in zip(tritons, clients, models, strict=True):
        engine.add_replica(triton.grpc_address, client, model)
    try:
        yield engine
    finally:
        await engine.close(BackendUnavailable("The test is over."))
        for client in clients:
            await client.close()


async def _model(triton: TritonServer, client: TritonClient, name: str) -> Model:
    models, key = _models.setdefault(triton, {}), (triton.pid, name)
    if key not in models:
        models[key] = await client.describe(name)
    return models[key]


def request(
    engine: Engine, prompt: str, sampling: SamplingParameters = GREEDY, tokens: int = 30, **more: Any
) -> GenerationRequest:
    """With seed 7, unless ``more`` names another."""
    return GenerationRequest(engine.model.tokenizer.encode(prompt), tokens, sampling, **({"seed": 7} | more))


async def generated(engine: Engine, *requests: GenerationRequest) -> tuple[list[Delta], GenerationRecord]:
    """All pieces, and what is known of them at their end."""
    record = GenerationRecord()
    with closing(engine.generate(list(requests), record)) as generation:
        pieces: list[Delta] = []
        while deltas := await generation.take():
            pieces += deltas
    return pieces, record


async def pieces_of(engine: Engine, *requests: GenerationRequest) -> list[Delta]:
    return (await generated(engine, *requests))[0]


async def text_of(engine: Engine, request: GenerationRequest) -> str:
    return "".join(piece.text for piece in await pieces_of(engine, request))


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def in_mid_text(engine: Engine, texts: int, tokens: int = 5) -> None:
    """Returns once ``texts`` texts run, each with ``tokens`` tokens at least: what breaks now breaks all of them."""

    def generated_tokens() -> list[int]:
        running = [sequence for replica in engine.replicas for sequence in replica.sequences]
        return [sequence.length - len(sequence.request.prompt_tokens) for sequence in running]

    await until(lambda: len(count := generated_tokens()) == texts and min(count) >= tokens)
