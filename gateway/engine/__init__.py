"""Sequences and how they run: queue, scheduler, replicas, sampling. Knows neither HTTP nor Triton."""
