"""The HTTP side of Tidegate: keys, validation, the sampling loop and the text. Talks to Triton only; imports no torch, no onnxruntime."""
