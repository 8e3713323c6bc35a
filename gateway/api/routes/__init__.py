"""One module a group of routes. A route says what it takes and what it answers; errors are raised and answered elsewhere."""
