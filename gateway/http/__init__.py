"""HTTP: connections, bodies, keys and their limits, events, errors, the request log."""
