"""Triton backends. In production ``onnx_decoder`` is copied into Triton's backend directory; here it is a package too."""
