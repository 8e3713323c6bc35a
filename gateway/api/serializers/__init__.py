"""Convert pieces of output into each API's response format. Independent of HTTP."""
