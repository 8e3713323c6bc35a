"""The clients people use, as they use them, against a real gateway and a real Triton."""
