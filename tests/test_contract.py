"""What two sides must call by the same name."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import backends.onnx_decoder.step as backend_step
import gateway.engine.step as gateway_step
from backends.onnx_decoder.wire import INPUTS
from export.model_directory import STEP_INPUTS
from gateway.text.model import Model
from gateway.triton.client import TRITON_TYPES, step_request

ROOT = Path(__file__).resolve().parent.parent


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
