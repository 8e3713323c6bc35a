"""Gateways and Tritons in virtual time. The code is that of the real ones, but for what takes time: that is reckoned."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers.models import WordLevel

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from backends.onnx_decoder.contract.request import Limits, Step, read_step
from backends.onnx_decoder.contract.step import StepAnswer, StepRow, encode_step
from backends.onnx_decoder.decoder import Candidates
from backends.onnx_decoder.kv_pool import KvPool
from backends.onnx_decoder.layout import Batch
from backends.onnx_decoder.stepper import Stepper
from bench.capacity import GatewayCost, StepCost
from gateway.engine.engine import Engine
from gateway.errors import BackendUnavailable
from gateway.settings import Settings
from gateway.text.grammar import GrammarCompiler
from gateway.text.model import Model
from gateway.text.tokenizer import Tokenizer

CONTEXT = 2048
MERGED = 16  # requests in one forward pass: max_batch_size of config.pbtxt
VOCABULARY = 512
CANDIDATES = 2
LIMITS = Limits(CONTEXT, VOCABULARY)


def simulated_model(slots: int) -> Model:
    """All description and no weights: 512 words, none of which ends a text."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(tokenizers.Tokenizer(WordLevel(words, unk_token="w0")).to_str(), chat_template=None)
    nothing: frozenset[int] = frozenset()
    return Model(
        name="simulated",
        version="1",
        checkpoint="none",
        created=0,
        context_length=CONTEXT,
        candidates=CANDIDATES,
        vocabulary_size=VOCABULARY,
        slots=slots,
        joined_tokens=JOINED_TOKENS,
        most_run_ahead=0,
        end_tokens=nothing,
        tokenizer=tokenizer,
        grammars=GrammarCompiler(tokenizer, VOCABULARY, nothing),
        fingerprint="0" * 64,
        parameters={},
    )


class ReckonedDecoder:
    """Adds up what the passes of a step would take. Nothing is copied: every prompt here is another."""

    vocabulary_size, candidate_count = VOCABULARY, CANDIDATES

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self.seconds = 0.0

    def forward(self, batch: Batch) -> Candidates:
        decoding = batch.counts == 1
        if decoding.any():
            self.seconds += self._cost.decode(int(decoding.sum()), float(batch.pasts[decoding].mean()))
        self.seconds += sum(self._cost.prefill(count) for count in batch.counts[~decoding].tolist())
        ids = np.tile(np.arange(CANDIDATES, dtype=np.int32), (int(batch.wanted.sum()), 1))
        return Candidates(ids, -ids.astype(np.float32), np.zeros(len(ids), np.float32))

    def taken(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class SimulatedTriton:
    """Takes all steps that wait, runs them as one, and answers each."""

    def __init__(self, cost: StepCost, slots: int) -> None:
        self._decoder = ReckonedDecoder(cost)
        self.pool = KvPool(slots, CONTEXT, copy=lambda source, target, length: None, clock=asyncio.get_running_loop().time)
        self._stepper = Stepper(self.pool, self._decoder)  # type: ignore[arg-type]
        self._waiting: asyncio.Queue[tuple[Step, asyncio.Future[StepAnswer]]] = asyncio.Queue()
        self.busy = 0.0  # seconds
        self._task = asyncio.create_task(self._run())

    async def step(self, rows: list[StepRow], release: list[int]) -> StepAnswer:
        answer: asyncio.Future[StepAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((read_step(encode_step(rows, release, "0"), LIMITS), answer))
        return await answer

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MERGED:
                batch.append(self._waiting.get_nowait())
            answers = self._stepper.step([step for step, _ in batch])
            seconds = self._decoder.taken()
            self.busy += seconds
            await asyncio.sleep(seconds)
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.cancelled():
                    waiting.set_result(answer)


class SimulatedGateway:
    """A real engine, whose work takes its core for the measured time. Is the backend of its own replicas."""

    def __init__(self, cost: GatewayCost, model: Model, tritons: Sequence[SimulatedTriton], settings: Settings) -> None:
        self._cost, self._core = cost, asyncio.Lock()
        self.engine = Engine(model, settings)
        self.seconds = 0.0  # that its core was used
        for number, triton in enumerate(tritons):
            self.engine.add_replica(f"triton-{number}", _Lane(self, triton), model)

    async def work(self, seconds: float) -> None:
        async with self._core:
            self.seconds += seconds
            await asyncio.sleep(seconds)

    async def step(self, triton: SimulatedTriton, rows: list[StepRow], release: list[int]) -> StepAnswer:
        answer = await triton.step(rows, release)
        await self.work(self._cost.per_step + self._cost.per_token * len(answer.candidate_id))
        return answer

    async def close(self) -> None:
        await self.engine.close(BackendUnavailable("The simulation is over."))


@dataclass(frozen=True)
class _Lane:
    gateway: SimulatedGateway
    triton: SimulatedTriton

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        return await self.gateway.step(self.triton, rows, release)
