"""The wire contract of a step, once for both sides: docs/wire-contract.md is made from it. numpy and relative imports only.

The gateway imports this package of the backend and nothing else of it; Triton loads it as `onnx_decoder.contract`.
"""
