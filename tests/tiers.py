"""Which tests run when, and which share a process: marks that `-m` selects by, and groups for pytest-xdist.

`make quick` runs what needs no server, `make test` every promise once, `make test ALL=1` everything. What a mark means is in
pyproject.toml. `slow` and `alone` are set by the tests themselves, the others here.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

SERVERS = {"model_repository", "browser", "engine", "make_serve", "served"}  # fixtures that start servers or export for them
SLOW = {"engine", "served", "start_triton", "traced", "gpu_check", "client_directory"}
SHARED = {"triton": "shared Triton", "engine": "containers", "make_serve": "checkout", "served": "checkout"}
TESTS = Path(__file__).parent
EXPORTS = TESTS / "export"


def mark(items: list[pytest.Item]) -> None:
    seen = set()
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SLOW:
            item.add_marker("slow")
        if fixtures & SERVERS:
            item.add_marker("server")
        promise = item.nodeid.partition("[")[0]
        if promise in seen and (fixtures & SERVERS or item.path.is_relative_to(EXPORTS)):
            item.add_marker("another_case")
        seen.add(promise)
        shared = [group for fixture, group in SHARED.items() if fixture in fixtures]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else str(item.path.relative_to(TESTS))))


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Whole groups, those that take long before the others, so that no process works on one when all others are done."""
    groups = defaultdict(list)
    for item in items:
        groups[_group(item)].append(item)
    return [item for group in sorted(groups.values(), key=_rank) for item in group]


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


def _rank(items: Iterable[pytest.Item]) -> int:
    if any(_group(item) in SHARED.values() for item in items):
        return 0
    return 1 if any(item.get_closest_marker("slow") for item in items) else 2
