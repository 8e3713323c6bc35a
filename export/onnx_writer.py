"""Writes an ONNX file node by node.

Weights are streamed to ``<file>.data``, so this module never holds two of them in memory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 23, 11  # RMSNormalization needs opset 23; onnxruntime 1.31 and 1.32 read both
CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators
INLINE_BYTES = 1024  # smaller tensors stay in the .onnx file
ALIGNMENT = 4096  # one page, so that onnxruntime can map the weights instead of reading them


class OnnxWriter:
    """One ONNX graph under construction. Use as a context manager; ``save`` writes the ``.onnx`` file next to its data."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.with_name(path.name + ".data").open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def __enter__(self) -> "OnnxWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        self._outputs.append(_value_info(name, dtype, shape))
        return name

    def has(self, name: str) -> bool:
        return name in self._initializers

    def initializer(self, name: str, value: np.ndarray | np.generic) -> str:
        """Adds a constant tensor, unless one of that name exists. Returns the name."""
        if name not in self._initializers:
            array = np.asarray(value, order="C")
            is_small = array.nbytes < INLINE_BYTES
            self._initializers[name] = numpy_helper.from_array(array, name) if is_small else self._stream(name, array)
        return name

    def alias(self, name: str, original: str, shape: Sequence[int]) -> str:
        """Exposes the initializer ``original`` under another name and shape, sharing its bytes in the file and in memory."""
        tensor = TensorProto()
        tensor.CopyFrom(self._initializers[original])
        tensor.name, tensor.dims[:] = name, shape
        self._initializers[name] = tensor
        return name

    def node(self, operator: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attributes: Any) -> str:
        """Adds a standard operator. Returns its first output. An empty input or output name means it is omitted."""
        return self._add(operator, inputs, outputs, "", attributes)

    def contrib(self, operator: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attributes: Any) -> str:
        """Adds one of onnxruntime's own operators; otherwise like ``node``."""
        return self._add(operator, inputs, outputs, CONTRIB, attributes)

    def rename(self, output: str, name: str) -> None:
        """Renames the only output of the last node."""
        assert self._nodes[-1].output == [output]
        self._nodes[-1].output[0] = name

    def save(self, name: str) -> None:
        self._data.flush()
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidegate")
        self._path.write_bytes(model.SerializeToString())

    def _add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str] | None, domain: str, attributes: Any) -> str:
        name = f"{operator}_{len(self._nodes)}"
        outputs = list(outputs or [f"{name}_output"])
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def _stream(self, name: str, array: np.ndarray) -> TensorProto:
        self._data.seek(-self._data.tell() % ALIGNMENT, 1)
        offset = self._data.tell()
        self._data.write(array.data.cast("B"))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": Path(self._data.name).name, "offset": offset, "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _value_info(name: str, dtype: Any, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
