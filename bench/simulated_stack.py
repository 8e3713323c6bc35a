"""Gateways and Tritons in virtual time. The code is that of the real ones, but for what takes time: that is reckoned."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers.models import WordLevel

from backends.onnx_decoder.kv_pool import KvPool
from backends.onnx_decoder.step import Stepper, StepResult
from backends.onnx_decoder.step import StepRow as BackendRow
from bench.capacity import GatewayCost, StepCost
from gateway.engine.engine import Engine
from gateway.engine.step import StepAnswer, StepRow
from gateway.errors import BackendUnavailable
from gateway.settings import Settings
from gateway.text.grammar import GrammarCompiler
from gateway.text.model import Model
from gateway.text.tokenizer import Tokenizer

CONTEXT = 2048
MERGED = 16  # requests in one forward pass: max_batch_size of config.pbtxt
VOCABULARY = 512


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
        candidates=2,
        vocabulary_size=VOCABULARY,
        slots=slots,
        end_tokens=nothing,
        tokenizer=tokenizer,
        grammars=GrammarCompiler(tokenizer, VOCABULARY, nothing),
        fingerprint="0" * 64,
        parameters={},
    )


@dataclass(frozen=True)
class Row:
    slot: int
    past: int
    tokens: np.ndarray
    logit_count: int
    full_logits: bool = False


class ReckonedDecoder:
    """Adds up what the passes of a step would take. Nothing is copied: every prompt here is another."""

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self.seconds = 0.0

    def run(self, rows: Sequence[Row]) -> list[None]:
        decoding = [row for row in rows if len(row.tokens) == 1]
        if decoding:
            past = sum(row.past for row in decoding) / len(decoding)
            self.seconds += self._cost.decode(len(decoding), past)
        self.seconds += sum(self._cost.prefill(len(row.tokens)) for row in rows if len(row.tokens) > 1)
        return [None] * len(rows)

    def taken(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class SimulatedTriton:
    """Takes all steps that wait, runs them as one, and answers each."""

    def __init__(self, cost: StepCost, slots: int) -> None:
        self._decoder = ReckonedDecoder(cost)
        self.pool = KvPool(slots, CONTEXT, copy=lambda source, target, length: None, clock=asyncio.get_running_loop().time)
        self._stepper = Stepper(self.pool, self._decoder, Row)  # type: ignore[arg-type]
        self._waiting: asyncio.Queue[tuple[list[BackendRow], list[int], asyncio.Future[StepAnswer]]] = asyncio.Queue()
        self.busy = 0.0  # seconds
        self._task = asyncio.create_task(self._run())

    async def step(self, rows: list[StepRow], release: list[int]) -> StepAnswer:
        answer: asyncio.Future[StepAnswer] = asyncio.get_running_loop().create_future()
        given = [
            BackendRow(row.sequence_id, row.past_length, row.tokens, row.token_limit, row.logit_count, row.full_logits)
            for row in rows
        ]
        self._waiting.put_nowait((given, release, answer))
        return await answer

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MERGED:
                batch.append(self._waiting.get_nowait())
            rows = [row for asked, _, _ in batch for row in asked]
            results = self._stepper.step(rows, [sequence for _, release, _ in batch for sequence in release])
            seconds = self._decoder.taken()
            self.busy += seconds
            await asyncio.sleep(seconds)
            place = 0
            for asked, _, answer in batch:
                mine, place = results[place : place + len(asked)], place + len(asked)
                positions = sum(
                    result.cached_length == row.past_length + len(row.tokens) for row, result in zip(asked, mine, strict=True)
                )
                if not answer.cancelled():
                    answer.set_result(_answer(mine, positions))


def _answer(results: Sequence[StepResult], positions: int) -> StepAnswer:
    ids = np.broadcast_to(np.arange(2, dtype=np.int32), (positions, 2))
    return StepAnswer(
        cached_length=np.array([one.cached_length for one in results], np.int32),
        reused_length=np.array([one.reused_length for one in results], np.int32),
        candidate_id=ids,
        candidate_logit=-ids.astype(np.float32),
        log_normalizer=np.zeros(positions, np.float32),
        logits=np.zeros((0, 0), np.float32),
    )


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

    async def step(self, model: Model, rows: list[StepRow], release: list[int]) -> StepAnswer:
        return await self.gateway.step(self.triton, rows, release)
