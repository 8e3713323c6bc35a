"""The `tidegate` command: one parser, and a few lines per command that call the package which does the work."""
