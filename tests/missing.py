"""What a test needs and this machine lacks."""

import os
from typing import NoReturn

import pytest


def missing(message: str) -> NoReturn:
    """Skips the test with its reason; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
