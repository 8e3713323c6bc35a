"""One module per group of routes. A route declares its input and output; errors are raised and handled elsewhere."""
