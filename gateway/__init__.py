"""The HTTP side of Tidegate: keys, validation, the sampling loop, the text. Imports neither torch nor onnxruntime."""
