"""What two sides must call by the same name, and who may import whom."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import backends.onnx_decoder.step as backend_step
import gateway.step as gateway_step
from backends.onnx_decoder.wire import INPUTS
from export.model_directory import STEP_INPUTS
from gateway.model import Model
from gateway.triton import TRITON_TYPES, step_request

ROOT = Path(__file__).resolve().parent.parent


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


def importers(*packages: str) -> set[str]:
    """Which of our files import one of ``packages``."""
    files = [path for top in ("gateway", "backends", "export", "serve", "scripts") for path in (ROOT / top).rglob("*.py")]
    return {
        str(path.relative_to(ROOT))
        for path in files
        for module in imports(path)
        if any(module == package or module.startswith(f"{package}.") for package in packages)
    }


def test_gateway_backend_and_export_name_the_same_inputs_of_the_same_types() -> None:
    types = {name: f"TYPE_{TRITON_TYPES[dtype.__name__.rstrip('_')]}" for name, dtype in INPUTS.items()}
    assert types | {"describe": "TYPE_BOOL"} == STEP_INPUTS
    model = cast(Model, SimpleNamespace(name="m", version="1", fingerprint="0f" * 32))
    sent = {tensor.name: f"TYPE_{tensor.datatype}" for tensor in step_request(model, [], []).inputs}
    assert sent == types


def test_gateway_and_backend_mean_the_same_by_a_negative_length() -> None:
    assert (gateway_step.UNKNOWN, gateway_step.NO_SLOT) == (backend_step.UNKNOWN, backend_step.NO_SLOT)


def test_every_name_of_the_contract_is_in_its_document() -> None:
    document = (ROOT / "docs" / "wire-contract.md").read_text("utf-8")
    assert [name for name in STEP_INPUTS if f"`{name}`" not in document] == []


def test_only_one_file_knows_tritons_python_backend() -> None:
    assert importers("triton_python_backend_utils") == {"backends/onnx_decoder/model.py"}


@pytest.mark.parametrize("package", ["torch", "onnxruntime", "onnx", "export", "backends", "serve"])
def test_gateway_does_without(package: str) -> None:
    assert not {path for path in importers(package) if path.startswith("gateway/")}


def test_export_never_imports_the_gateway() -> None:
    assert not {path for path in importers("gateway") if path.startswith("export/")}


def test_backend_imports_numpy_and_onnxruntime_only() -> None:
    assert not {path for path in importers("torch", "onnx", "gateway", "export", "serve") if path.startswith("backends/")}


def test_sampling_and_scheduling_know_neither_http_nor_grpc() -> None:
    assert not {"gateway/sampling.py", "gateway/scheduler.py", "gateway/sequence.py"} & importers(
        "fastapi", "starlette", "grpc"
    )
