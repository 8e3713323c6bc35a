"""What `model.py` does with requests, without Triton: the contract's two ends around a real stepper."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from backends.onnx_decoder.contract.request import Limits, Step, encode_answer, read_step
from backends.onnx_decoder.contract.step import StepAnswer, StepRow, decode_answer, encode_step
from backends.onnx_decoder.decoder import Decoder
from backends.onnx_decoder.kv_pool import KvPool
from backends.onnx_decoder.stepper import Stepper

Request = Mapping[str, np.ndarray]


class Backend:
    def __init__(self, model: Path, slots: int, context_length: int, end_tokens: Iterable[int] = (), threads: int = 1) -> None:
        self.decoder = Decoder(model, slots=slots, context_length=context_length, threads=threads)
        self.limits = Limits(context_length, self.decoder.vocabulary_size)
        self.end_tokens = list(end_tokens)
        self.forget()

    def forget(self) -> None:
        """Everything that is cached."""
        self.pool = KvPool(self.decoder.slots, self.limits.context_length, self.decoder.copy_prefix)
        self.stepper = Stepper(self.pool, self.decoder, self.end_tokens)

    def read(self, request: Request) -> Step:
        """Raises BadStep."""
        return read_step(request, self.limits)

    def answer(self, steps: Sequence[Step]) -> list[StepAnswer]:
        """To requests that wait at the same moment."""
        return [decode_answer(encode_answer(answer)) for answer in self.stepper.step(steps)]

    def step(self, *rows: StepRow, release: Sequence[int] = (), time_budget: int | None = None) -> StepAnswer:
        (answer,) = self.answer([self.read(encode_step(rows, release, "0", time_budget))])
        return answer
