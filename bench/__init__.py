import backends.onnx_decoder  # noqa: F401 # it turns ONNX Runtime's telemetry off, also in what is started from here
