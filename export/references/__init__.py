"""The checkpoint's own forward pass in fp32, from its raw tensors: the reference that exports are verified against."""
