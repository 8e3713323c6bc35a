"""`scripts/gpu-check --bundle DIRECTORY`: all that `make gpu-check` needs, for a machine without a package index."""


class BundleError(Exception):
    """The bundle cannot be made. The message says what to do."""
