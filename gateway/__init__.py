"""The HTTP side of Tidegate: keys, validation, the sampling loop, text. Imports neither torch nor onnxruntime."""

VERSION = "0.1.0"  # of Tidegate; pyproject.toml reads it from here
