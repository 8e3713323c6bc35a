"""From the pieces of an answer to the form that its clients read. Knows no HTTP."""
