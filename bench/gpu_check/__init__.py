"""`make gpu-check`: the whole stack on the GPU of this machine, checked and measured beside what people use now."""

import backends.onnx_decoder  # noqa: F401 # first: it turns ONNX Runtime's telemetry off
