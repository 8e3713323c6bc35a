"""The command `tidegate`: one parser, and a few lines that lead to the package that does the work."""
