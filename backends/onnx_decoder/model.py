"""The Triton backend ``onnx_decoder``: requests in, responses out. The only file that uses ``triton_python_backend_utils``.

A model of this backend is only data: ``config.pbtxt`` and, in each version directory, ``model.onnx``, ``tokenizer.json`` and
``model_card.json``. Everything that differs between versions is read from the version directory, because Triton has one
config.pbtxt for all of them.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parent.parent))  # Triton loads this file alone; the rest is a package

from onnx_decoder import gpu
from onnx_decoder.contract.limits import MOST_RUN_AHEAD
from onnx_decoder.contract.request import BadStep, Limits, Step, encode_answer, read_step
from onnx_decoder.contract.step import fingerprint_number
from onnx_decoder.decoder import Decoder
from onnx_decoder.device import Cpu, Device
from onnx_decoder.dlpack import SharedArray
from onnx_decoder.kv_pool import KvPool
from onnx_decoder.metrics import Metrics
from onnx_decoder.resources import (
    AUTO,
    choose_slots,
    free_memory,
    keep_freed_memory,
    room_for_tokens,
    usable_cores,
    use_huge_pages,
)
from onnx_decoder.stepper import Stepper


class _Refused(Exception):
    """A request that gets an error response. ``reason`` is the metric's label, ``code`` Triton's error code."""

    def __init__(self, reason: str, message: str, code: int) -> None:
        super().__init__(message)
        self.reason, self.code = reason, code


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Loads the session and allocates the KV pool. On any failure, rejects the model with a one-sentence message."""
        try:
            self._load(args)
        except Exception as exc:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {exc}") from exc

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs one step for all rows of all requests. A bad request gets its own error and does not affect the others."""
        began = time.perf_counter()
        self._sent.clear()  # Triton has copied the tensors of the last responses by now
        responses: list[Any] = [None] * len(requests)
        steps: dict[int, Step] = {}
        for index, request in enumerate(requests):
            inputs = {tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()}
            try:
                if "describe" in inputs:
                    description = self._description if inputs["describe"].any() else self._parameters
                    responses[index] = self._response({"description": description[None]})
                else:
                    steps[index] = self._read(inputs)
            except _Refused as exc:
                self._counts["refusals", exc.reason] += 1
                responses[index] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc), exc.code))
        for index, answer in zip(steps, self._stepper.step(list(steps.values())), strict=True):
            responses[index] = self._response(encode_answer(answer))
        if rows := sum(len(step.rows) for step in steps.values()):
            self._counts["steps"] += 1
            self._counts["step_rows"] += rows
            self._counts["step_seconds"] += time.perf_counter() - began
        self._metrics.publish()
        return responses

    def _read(self, inputs: Mapping[str, np.ndarray]) -> Step:
        try:
            step = read_step(inputs, self._limits)
        except BadStep as exc:
            raise _Refused("bad_step", str(exc), pb_utils.TritonError.INVALID_ARG) from exc
        if step.fingerprint not in (None, self._fingerprint):  # the gateway may reload the description and retry
            message = "fingerprint: another model has taken this one's place"
            raise _Refused("other_model", message, pb_utils.TritonError.UNAVAILABLE)
        return step

    def _load(self, args: dict[str, str]) -> None:
        keep_freed_memory()
        directory = Path(args["model_repository"]) / args["model_version"]
        parameters: dict[str, str] = json.loads((directory / "model_card.json").read_text("utf-8"))["parameters"]
        context_length = int(parameters["context_length"])
        asked = os.environ.get("TIDEGATE_SLOTS") or parameters["slots"]
        device = _device(parameters["precision"], growing=asked == AUTO)
        decoder = Decoder(
            directory / "model.onnx",
            slots=_slots(asked, device),
            context_length=context_length,
            device=device,
            threads=usable_cores(),
        )
        if isinstance(device, Cpu):
            use_huge_pages()
        self._counts: defaultdict[Any, float] = defaultdict(float)
        token_bytes = decoder.slot_bytes / context_length
        room = room_for_tokens(token_bytes) if isinstance(device, Cpu) and device.growing else None
        pool = KvPool(decoder.slots, context_length, decoder.copy_prefix, counts=self._counts, room=room)
        end_tokens = [int(token) for token in parameters["end_tokens"].split(",") if token]
        self._stepper = Stepper(pool, decoder, end_tokens, self._counts)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = Metrics(pb_utils.MetricFamily, labels, self._counts, pool, device.name)
        self._sent: list[SharedArray] = []
        self._limits = Limits(context_length, decoder.vocabulary_size)
        self._fingerprint = fingerprint_number(parameters["fingerprint"])
        parameters |= {
            "slots": str(decoder.slots),
            "provider": device.name,
            "joined_tokens": str(decoder.joined_tokens),
            "run_ahead": str(MOST_RUN_AHEAD),
        }
        self._parameters = _json({"parameters": parameters})
        self._description = _json({"parameters": parameters, **_texts(directory)})
        # serve/model_memory.py reads this line.
        slots = f"{decoder.slots} slots of {context_length} tokens on {device.name}, {decoder.slot_bytes} bytes each"
        pb_utils.Logger.log_info(f"{args['model_name']}: {slots}, {'growing' if room else 'reserved'}")

    def _response(self, outputs: dict[str, np.ndarray]) -> Any:
        shared = {name: SharedArray(array) for name, array in outputs.items()}
        self._sent.extend(shared.values())
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, array) for name, array in shared.items()])


def _device(precision: str, growing: bool) -> Device:
    """TIDEGATE_DEVICE is "cuda", "cpu", or "auto": use a GPU if possible. If a GPU is present but unusable, logs the reason."""
    asked = os.environ.get("TIDEGATE_DEVICE") or "auto"
    if asked not in ("auto", "cuda", "cpu"):
        raise ValueError(f"TIDEGATE_DEVICE is {asked!r}, must be auto, cuda or cpu")
    if asked == "cpu" or (asked == "auto" and not gpu.present()):
        return Cpu(growing=growing)
    if reason := gpu.why_not(precision):
        if asked == "cuda":
            raise ValueError(f"it was asked to run on a GPU, and cannot: {reason}")
        pb_utils.Logger.log_warn(f"on the CPU although there is a GPU: {reason}")
        return Cpu(growing=growing)
    device = gpu.Device()
    pb_utils.Logger.log_info(f"on a GPU: {device.describe()}")
    return device


def _slots(asked: str, device: Device) -> Callable[[int], int]:
    free = device.free_memory if isinstance(device, gpu.Device) else free_memory
    return lambda slot_bytes: choose_slots(asked, slot_bytes, free(), device.name)


def _texts(directory: Path) -> dict[str, str | None]:
    template = directory / "chat_template.jinja"
    return {
        "tokenizer": (directory / "tokenizer.json").read_text("utf-8"),
        "chat_template": template.read_text("utf-8") if template.exists() else None,
    }


def _json(document: Mapping[str, object]) -> np.ndarray:
    return np.frombuffer(json.dumps(document).encode(), np.uint8)
