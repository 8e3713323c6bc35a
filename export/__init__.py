"""Checkpoint → ONNX inside a Triton model repository. Imports torch only to read ``.pt`` files; never imports the gateway."""
