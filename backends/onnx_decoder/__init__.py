"""The forward pass: a Python-based Triton backend over ONNX Runtime with the KV cache kept in place."""
