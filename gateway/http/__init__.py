"""HTTP itself: connections, bodies, keys and their limits, events, errors, the log of requests."""
