"""Which tests run when, and which share a process: marks that `-m` selects by, and groups for pytest-xdist.

`make quick` runs what needs no server, `make test` every promise once, `make test ALL=1` everything. What a mark means is in
pyproject.toml. `slow` and `alone` are set by the tests themselves, the others here.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

SERVERS = {"model_repository", "browser", "engine", "make_serve", "trained"}  # fixtures that start servers or export for them
SLOW = {"engine", "trained", "start_triton", "traced", "gpu_check", "client_directory"}
TRITON = "shared Triton"
# What is started once for a group. Two processes have a Triton: that of tests/gateway, and that of all others.
SHARED = {"triton": TRITON, "engine": "containers", "make_serve": "checkout", "trained": "checkout"}
TESTS = Path(__file__).parent
EXPORTS = TESTS / "export"
WITHOUT_EXPORT = ("test_chat_*", "test_default_templates.py", "test_directories.py", "test_repository.py", "test_quantize.py")


def mark(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    takes_server = bool(fixtures & SERVERS)
    if fixtures & SLOW:
        item.add_marker("slow")
    if takes_server:
        item.add_marker("server")
    takes_export = item.path.is_relative_to(EXPORTS) and not any(map(item.path.match, WITHOUT_EXPORT))
    if takes_export:
        item.add_marker("export")
    if (takes_server or takes_export) and not _is_first_case(item):
        item.add_marker("another_case")
    item.add_marker(pytest.mark.xdist_group(_group_for(item, fixtures)))


def _is_first_case(item: pytest.Item) -> bool:
    """Of a parametrised test; the only one of another."""
    callspec = getattr(item, "callspec", None)
    return callspec is None or not any(callspec.indices.values())


def _group_for(item: pytest.Item, fixtures: set[str]) -> str:
    file = item.path.relative_to(TESTS)
    group = next((group for fixture, group in SHARED.items() if fixture in fixtures), str(file))
    return f"{group} of tests/gateway" if group == TRITON and file.parts[0] == "gateway" else group


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
    if any(_group(item).startswith(tuple(SHARED.values())) for item in items):
        return 0
    return 1 if any(item.get_closest_marker("slow") for item in items) else 2
