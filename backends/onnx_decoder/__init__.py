"""The forward pass: a Python-based Triton backend over ONNX Runtime with the KV cache kept in place."""

import os

# ONNX Runtime's official builds otherwise write a device identifier and send usage events to their maker. Read at its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
