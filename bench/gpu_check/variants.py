"""Other ways to compute the same, to be measured on a card before any is taken: none of them is the backend's.

Each is the backend's decoder with one thing done otherwise. The CPU tries out that they say the same; how fast they are there
tells nothing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from backends.onnx_decoder import gpu
from backends.onnx_decoder.decoder import Candidates, Decoder, _bind_inputs, _Binding
from backends.onnx_decoder.layout import Batch, Layout
from bench.gpu_check.buffers import Buffer

TOTAL = "total_sequence_length"  # attention reads it on the CPU
NOT_CAPTURED = -1  # of gpu_graph_id
GROUPS = 64  # of the vocabulary, in the first of two stages


class Buffered(Decoder):
    """A pass's inputs lie in one buffer on the device, its outputs in another."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._buffers: dict[int, tuple[Buffer, Buffer]] = {}  # by binding
        super().__init__(*args, **options)

    def _bind(self, *shape: Any) -> _Binding:
        binding = super()._bind(*shape)
        up = Buffer(self.device, {name: array for name, array in binding.inputs.items() if name != TOTAL})
        down = Buffer(self.device, binding.outputs)
        for bind, buffer in ((binding.io.bind_input, up), (binding.io.bind_output, down)):
            for name, array in buffer.arrays.items():
                bind(name, self.device.name, 0, array.dtype, array.shape, buffer.addresses[name])
        binding.inputs |= up.arrays
        binding.outputs |= down.arrays
        self._buffers[id(binding)] = up, down
        return binding

    def _compute(self, binding: _Binding, changed: Iterable[str]) -> None:
        up, down = self._buffers[id(binding)]
        up.twin.upload()
        if self.device.copies_inputs:
            _bind_inputs(binding, [TOTAL])
        self._session.run_with_iobinding(binding.io, self._run_options())
        binding.io.synchronize_outputs()
        down.twin.download()

    def _run_options(self) -> onnxruntime.RunOptions | None:
        return None


class GraphDevice(gpu.Device):
    """With CUDA graphs."""

    providers = ((gpu.PROVIDER, {**gpu.Device.providers[0][1], "enable_cuda_graph": "1"}),)


class Graphed(Buffered):
    """A decode step is padded to a power of two of rows, from slot 0 on, and has the context's length as its total: on a
    GraphDevice, ONNX Runtime captures one CUDA graph for each such number of rows. Everything else is not captured.

    Padding rows compute a token that nobody reads, one position past what their slots hold, as idle slots do.
    """

    _padded = False  # the pass that runs

    def forward(self, batch: Batch) -> Candidates:
        rows = min(1 << int(batch.slots.max()).bit_length(), self.slots)
        held = self._lengths[:rows].astype(np.int64)
        held[batch.slots] = batch.pasts
        if not self._can_pad(batch, held):
            return super().forward(batch)
        before, slots, ones = self._lengths.copy(), np.arange(rows), np.ones(rows, np.int64)
        tokens = np.zeros(rows, np.int32)
        tokens[batch.slots] = batch.tokens
        self._padded = True
        try:
            found = super().forward(Batch(slots, held, ones, ones, np.zeros(rows, np.bool_), tokens))
        finally:
            self._padded = False
        self._lengths[:] = before
        self._lengths[batch.slots] = batch.pasts + 1
        kept = batch.slots
        return Candidates(found.candidate_id[kept], found.candidate_logit[kept], found.log_normalizer[kept])

    def _can_pad(self, batch: Batch, held: np.ndarray) -> bool:
        decode = bool((batch.counts == 1).all() and (batch.wanted == 1).all() and not batch.full.any())
        return decode and bool((held < self.context_length).all()) and self._tokens is None

    def _fill(self, binding: _Binding, layout: Layout, batch: Batch) -> Iterable[str]:
        changed = super()._fill(binding, layout, batch)
        if self._padded:
            binding.inputs[TOTAL][...] = self.context_length
        return changed

    def _run_options(self) -> onnxruntime.RunOptions | None:
        if not isinstance(self.device, GraphDevice):
            return None
        options = onnxruntime.RunOptions()
        rows = self._layout.shape[1] if self._padded and self._layout else NOT_CAPTURED
        options.add_run_config_entry("gpu_graph_id", str(rows))
        return options


class PaddedPrefill(Decoder):
    """Rows that begin in neighbouring slots share a pass, padded to the longest. With no past attention needs no
    `query_seqlens` for that, and what padding writes behind a shorter row is overwritten before it is read."""

    def _groups(self, batch: Batch) -> list[np.ndarray]:
        rows = len(batch.slots)
        neighbours = np.ptp(batch.slots) + 1 == rows
        if rows > 1 and neighbours and (batch.pasts == 0).all() and (batch.counts > 1).all():
            return [np.arange(rows)]
        return super()._groups(batch)


def two_stages(model: Path, target: Path) -> Path:
    """The graph with its candidates taken from those of each of some groups of the vocabulary. Writes ``target`` beside
    ``model``, whose weights it shares."""
    graph = onnx.load(str(model), load_external_data=False)
    nodes = graph.graph.node
    index, top = next((n, node) for n, node in enumerate(nodes) if node.op_type == "TopK")
    (logits, k), (values, ids) = top.input, top.output
    shape = {one.name: one for one in graph.graph.output}["logits"].type.tensor_type.shape.dim
    count = next(one for one in graph.graph.initializer if one.name == k)
    width = -(-int(shape[1].dim_value) // GROUPS)
    padding = width * GROUPS - int(shape[1].dim_value)
    kept = int(onnx.numpy_helper.to_array(count)[0])

    def constant(name: str, array: np.ndarray) -> str:
        graph.graph.initializer.append(onnx.numpy_helper.from_array(array, f"stages.{name}"))
        return f"stages.{name}"

    def largest(values: str, *outputs: str) -> onnx.NodeProto:
        return helper.make_node("TopK", [values, k], outputs, axis=-1, largest=1, sorted=1)

    lowest = constant("lowest", np.array(np.finfo(np.float32).min, np.float32))
    offsets = constant("offsets", (np.arange(GROUPS, dtype=np.int64) * width)[None, :, None])
    shaped, flat = (
        constant(name, np.array(to)) for name, to in (("groups", [-1, GROUPS, width]), ("flat", [-1, GROUPS * kept]))
    )
    pads = constant("pads", np.array([0, 0, 0, padding]))
    new = [
        helper.make_node("Pad", [logits, pads, lowest], ["stages.padded"]),
        helper.make_node("Reshape", ["stages.padded", shaped], ["stages.grouped"]),
        largest("stages.grouped", "stages.values", "stages.places"),
        helper.make_node("Add", ["stages.places", offsets], ["stages.ids"]),
        helper.make_node("Reshape", ["stages.values", flat], ["stages.values_flat"]),
        helper.make_node("Reshape", ["stages.ids", flat], ["stages.ids_flat"]),
        largest("stages.values_flat", values, "stages.chosen"),
        helper.make_node("GatherElements", ["stages.ids_flat", "stages.chosen"], [ids], axis=-1),
    ]
    del nodes[index]
    for place, node in enumerate(new):
        nodes.insert(index + place, node)
    assert count.data_type == TensorProto.INT64
    onnx.save(graph, str(target))
    return target
