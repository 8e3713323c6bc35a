"""The wire contract of a step, shared by both sides. docs/wire-contract.md is generated from it. Imports only numpy and itself.

This is the only package of the backend that the gateway imports; Triton loads it as `onnx_decoder.contract`.
"""
