"""The Triton backend ``onnx_decoder``: requests in, responses out. The only file that knows ``triton_python_backend_utils``.

A model of this backend is data only: ``config.pbtxt`` and, in each version directory, ``model.onnx``, ``tokenizer.json`` and
``model_card.json``. All that differs from version to version is read from there: Triton knows one config.pbtxt for all of them.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import triton_python_backend_utils as pb_utils
from decoder import Cpu, Decoder, Device, Row
from dlpack import SharedArray
from kv_pool import KvPool
from machine import choose_slots, free_memory, usable_cores
from metrics import Metrics
from step import Stepper, StepRow
from wire import BadStep, Limits, Step, pack, parse


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Loads the session and touches the whole KV pool. Any failure refuses the model with one sentence."""
        try:
            self._load(args)
        except Exception as exc:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {exc}") from exc

    def execute(self, requests: list[Any]) -> list[Any]:
        """One forward pass for all rows of all requests; a bad request is answered alone."""
        began = time.perf_counter()
        self._sent.clear()  # Triton has copied the tensors of the last responses by now
        responses: list[Any] = [None] * len(requests)
        steps: list[tuple[int, Step]] = []
        for index, request in enumerate(requests):
            arrays = {tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()}
            try:
                if "describe" in arrays:
                    description = self._description if arrays["describe"].any() else self._parameters
                    responses[index] = self._response({"description": description[None]})
                    continue
                step = parse(arrays, self._limits, StepRow)
                if step.fingerprint in (None, self._fingerprint):
                    steps.append((index, step))
                else:  # nothing of it was computed: the one who asked may find out, and ask again
                    self._counts["refusals", "other_model"] += 1
                    responses[index] = _error(
                        "fingerprint: another model has taken this one's place", pb_utils.TritonError.UNAVAILABLE
                    )
            except BadStep as exc:
                self._counts["refusals", "bad_step"] += 1
                responses[index] = _error(str(exc), pb_utils.TritonError.INVALID_ARG)
        rows = [row for _, step in steps for row in step.rows]
        results = self._stepper.step(rows, [sequence for _, step in steps for sequence in step.release])
        end = 0
        for index, step in steps:
            start, end = end, end + len(step.rows)
            responses[index] = self._response(pack(results[start:end], self._candidate_count, self._limits.vocabulary_size))
        if rows:
            self._counts["steps"] += 1
            self._counts["step_rows"] += len(rows)
            self._counts["step_seconds"] += time.perf_counter() - began
        self._metrics.publish()
        return responses

    def _load(self, args: dict[str, str]) -> None:
        directory = Path(args["model_repository"]) / args["model_version"]
        parameters: dict[str, str] = json.loads((directory / "model_card.json").read_text("utf-8"))["parameters"]
        context_length = int(parameters["context_length"])
        device = _device(parameters["precision"])
        decoder = Decoder(
            directory / "model.onnx",
            slots=_slots(parameters, device),
            context_length=context_length,
            device=device,
            threads=usable_cores(),
        )
        self._counts: defaultdict[Any, float] = defaultdict(float)
        pool = KvPool(decoder.slots, context_length, decoder.copy_prefix, counts=self._counts)
        self._stepper = Stepper(pool, decoder, Row, self._counts)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = Metrics(pb_utils.MetricFamily, labels, self._counts, pool, device.name)
        self._candidate_count = decoder.candidate_count
        self._sent: list[SharedArray] = []
        self._limits = Limits(context_length, decoder.vocabulary_size)
        self._fingerprint = int(parameters["fingerprint"][:16], 16)
        parameters |= {"slots": str(decoder.slots), "provider": device.name}
        self._parameters = _json({"parameters": parameters})
        self._description = _json({"parameters": parameters, **_texts(directory)})
        pb_utils.Logger.log_info(f"{args['model_name']}: {decoder.slots} slots of {context_length} tokens on {device.name}")

    def _response(self, outputs: dict[str, np.ndarray]) -> Any:
        shared = {name: SharedArray(array) for name, array in outputs.items()}
        self._sent.extend(shared.values())
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, array) for name, array in shared.items()])


def _device(precision: str) -> Device:
    """TIDEGATE_DEVICE: "cuda" or "cpu", or "auto" for a GPU wherever one can be used; where not, the log says why."""
    asked = os.environ.get("TIDEGATE_DEVICE") or "auto"
    if asked not in ("auto", "cuda", "cpu"):
        raise ValueError(f"TIDEGATE_DEVICE is {asked!r}, must be auto, cuda or cpu")
    if asked == "cpu" or (asked == "auto" and not gpu.present()):
        return Cpu()
    if reason := gpu.why_not(precision):
        if asked == "cuda":
            raise ValueError(f"it was asked to run on a GPU, and cannot: {reason}")
        pb_utils.Logger.log_warn(f"on the CPU although there is a GPU: {reason}")
        return Cpu()
    device = gpu.Device()
    pb_utils.Logger.log_info(f"on a GPU: {device.describe()}")
    return device


def _slots(parameters: dict[str, str], device: Device) -> Callable[[int], int]:
    asked = os.environ.get("TIDEGATE_SLOTS") or parameters["slots"]
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


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
