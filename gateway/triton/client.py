"""Triton over gRPC: one message per step. Converts every gRPC error to one of ours."""

import asyncio
import json
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from backends.onnx_decoder.contract.step import decode_answer, encode_step
from backends.onnx_decoder.contract.tensors import DATATYPES, INPUTS
from gateway.engine.step import StepAnswer, StepRow
from gateway.errors import BackendUnavailable, InternalError
from gateway.telemetry.tracing import Metadata, step_spans
from gateway.text.model import Model

# The defaults wait a second or more between attempts; Triton restarts faster.
CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # otherwise an http_proxy in the environment is used even for 127.0.0.1
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]
NUMPY_TYPES = {name: dtype for dtype, name in DATATYPES.items()}
# Codes after which a step may be resent: a restart of Triton or of its Python stub, a stall, a full queue.
TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
STEP_TIMEOUT = 30.0  # seconds; a step takes milliseconds
LONG_STEP = 1.0  # seconds between liveness checks during a long step
LIVE_TIMEOUT = 1.0  # seconds; Triton answers during steps too, in less than a millisecond
CLOSE_TIMEOUT = 1.0  # seconds


class TritonClient:
    """A channel to one Triton. Create it inside a running event loop; close it, or use it as an async context manager.

    Requests to a model are never cancelled: up to 25.03, Triton crashes if a cancellation coincides with the end of its request
    (https://github.com/triton-inference-server/server/issues/8034). Callers that stop waiting just ignore the answer.
    """

    def __init__(self, address: str, step_timeout: float = STEP_TIMEOUT) -> None:
        self._step_timeout = min(step_timeout, STEP_TIMEOUT)
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._calls: set[asyncio.Future[pb.ModelInferResponse]] = set()  # in flight
        self._stalled: asyncio.Future[pb.ModelInferResponse] | None = None  # the last call that took longer than LONG_STEP

    async def __aenter__(self) -> "TritonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits up to CLOSE_TIMEOUT for calls in flight, then closes the channel."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=CLOSE_TIMEOUT)
        await self._channel.close()

    async def models(self) -> list[tuple[str, int]]:
        """Name and version of every ready model, sorted. Raises BackendUnavailable."""
        index = await self._call(self._stub.RepositoryIndex, pb.RepositoryIndexRequest(ready=True), timeout=5.0)
        return sorted((model.name, int(model.version)) for model in index.models)

    async def describe(self, name: str, version: str = "") -> Model:
        """Everything Triton knows about a model, by default its newest version. Raises BackendUnavailable."""
        version, description = await self._describe(name, version, whole=True)
        return await asyncio.to_thread(Model.from_description, name, version, description)  # a large tokenizer takes a second

    async def fingerprint(self, model: Model) -> str:
        """The fingerprint of what Triton now has under this name and version. Raises BackendUnavailable."""
        _, description = await self._describe(model.name, model.version, whole=False)
        return str(json.loads(description)["parameters"]["fingerprint"])

    async def _describe(self, name: str, version: str, *, whole: bool) -> tuple[str, bytes]:
        request = pb.ModelInferRequest(model_name=name, model_version=version)
        _add_input(request, "describe", np.array([[whole]]))
        response = await self._call(self._infer, request, timeout=10.0)
        return response.model_version, _outputs(response)["description"].tobytes()

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        request = step_request(model, rows, release, time_budget)
        with step_spans(rows) as metadata:
            outputs = _outputs(await self._call(self._infer_while_live, request, self._step_timeout, metadata))
        return decode_answer(outputs)

    def _send(
        self, request: pb.ModelInferRequest, timeout: float, metadata: Metadata | None = None
    ) -> asyncio.Future[pb.ModelInferResponse]:
        call = asyncio.ensure_future(self._stub.ModelInfer(request, timeout=timeout, metadata=metadata))
        self._calls.add(call)
        call.add_done_callback(self._note_end)
        return call

    def _note_end(self, call: asyncio.Future[pb.ModelInferResponse]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # marks it as retrieved, in case nobody waits for it any more

    async def _infer(self, request: pb.ModelInferRequest, timeout: float, metadata: Metadata | None) -> pb.ModelInferResponse:
        return await asyncio.shield(self._send(request, timeout, metadata))

    async def _infer_while_live(
        self, request: pb.ModelInferRequest, timeout: float, metadata: Metadata | None
    ) -> pb.ModelInferResponse:
        """A step with long prompts may take seconds. But a Triton whose process is stopped keeps its connections and stays
        silent: liveness checks detect that well before the timeout."""
        if self._stalled is not None and not self._stalled.done():
            await self._live()  # before giving it more work
        call = self._send(request, timeout, metadata)
        while not (await asyncio.wait({call}, timeout=LONG_STEP))[0]:
            self._stalled = call
            await self._live()
        return call.result()

    async def _live(self) -> None:
        await self._stub.ServerLive(pb.ServerLiveRequest(), timeout=LIVE_TIMEOUT)

    async def _call(self, method: Any, request: Any, timeout: float, metadata: Metadata | None = None) -> Any:
        try:
            return await method(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as exc:
            if exc.code() in TRANSIENT:
                message = "The model server does not answer. Please try again."
                detail = f"{exc.code().name} {(exc.details() or '').partition(chr(10))[0]}"
                raise BackendUnavailable(message, retry_after=2, detail=detail) from exc
            raise InternalError from exc


def step_request(
    model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None
) -> pb.ModelInferRequest:
    """The message for one step: see docs/wire-contract.md."""
    request = pb.ModelInferRequest(model_name=model.name, model_version=model.version)
    microseconds = None if time_budget is None else round(time_budget * 1e6)
    for name, array in encode_step(rows, release, model.fingerprint, microseconds).items():
        _add_input(request, name, array)
    return request


def _add_input(request: pb.ModelInferRequest, name: str, array: np.ndarray) -> None:
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = name, INPUTS[name].datatype
    tensor.shape.extend(array.shape)
    request.raw_input_contents.append(array.tobytes())


def _outputs(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """Outputs by name, as read-only views of the message."""
    arrays = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        array = np.frombuffer(raw, NUMPY_TYPES[tensor.datatype])
        if array.size != np.prod(tensor.shape):
            # Seen with numpy 2 in an old Python backend: correct shapes but no bytes.
            raise InternalError from ValueError(f"output {tensor.name} has shape {list(tensor.shape)} and {array.size} values")
        arrays[tensor.name] = array.reshape(tensor.shape)
    return arrays
