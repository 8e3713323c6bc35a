"""Metrics, traces and logs: they only watch."""
