"""`tidegate serve`: runs everything on one machine, from the checkpoint to the HTTP endpoint."""
