"""Triton over gRPC: its models and its steps."""
