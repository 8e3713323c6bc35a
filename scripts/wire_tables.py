"""The tables of docs/wire-contract.md: every tensor, and the columns of those that have some."""

from collections.abc import Mapping

from backends.onnx_decoder.contract.tensors import RESULT_FIELDS, ROW_FIELDS, RULE_FIELDS, Tensor


def tensors_table(kind: str, tensors: Mapping[str, Tensor]) -> str:
    lines = [f"| {kind} | type, shape | meaning |", "| --- | --- | --- |"]
    for name, tensor in tensors.items():
        lines.append(f"| `{name}` | {tensor.datatype} [{', '.join(tensor.shape)}] | {tensor.meaning} |")
    return "\n".join(lines)


def columns_table() -> str:
    lines = ["| tensor | column | meaning |", "| --- | --- | --- |"]
    for tensor, columns in {"rows": ROW_FIELDS, "rule": RULE_FIELDS, "results": RESULT_FIELDS}.items():
        for place, (name, meaning) in enumerate(columns.items()):
            lines.append(f"| `{tensor}` | {place}: `{name}` | {meaning} |")
    return "\n".join(lines)
