"""`tidegate serve`: everything on one bare machine, from the checkpoint to the address that answers."""
