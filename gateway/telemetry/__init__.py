"""Metrics, traces and logs. They only observe."""
