"""The checkpoint's own forward pass in fp32, from its raw tensors: what an export is judged by."""
