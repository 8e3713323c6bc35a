"""Which tests run when, and which share a process: marks that `-m` selects by, and groups for pytest-xdist.

`make quick` runs what needs no server, `make test` every promise once, `make test ALL=1` everything. What a mark means is in
pyproject.toml. `slow` and `alone` are set by the tests themselves, the others here.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

SERVERS = {
    "model_repository",
    "browser",
    "engine",
    "make_serve",
    "running",
    "served",
    "machine",
    "trained",
}  # fixtures that start servers or export for them
SLOW = {"engine", "trained", "start_triton", "traced", "gpu_check", "client_directory"}
# Files that start the same costly thing, or change the same files. Every other file is a group of its own.
GROUPS = {
    "deploy/test_compose.py": "containers",
    "deploy/test_images.py": "containers",
    "serve/test_make_serve.py": "checkout",
    "docs/test_examples.py": "checkout",
}
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
    tries_many_values = getattr(item.obj, "is_hypothesis_test", False)
    if (takes_server or takes_export or tries_many_values) and not _is_first_case(item):
        item.add_marker("another_case")


def _is_first_case(item: pytest.Item) -> bool:
    """Of a parametrised test; the only one of another."""
    callspec = getattr(item, "callspec", None)
    return callspec is None or not any(callspec.indices.values())


def group_of(nodeid: str) -> str:
    """The tests of a group run in one process, one after another."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return GROUPS.get(file, file)


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Whole groups, long ones first, so that no process works on one when all others are done. The very first one exports the
    models that servers share, while other processes begin with what needs none of them."""
    groups = defaultdict(list)
    for item in items:
        groups[group_of(item.nodeid)].append(item)
    ordered = sorted(groups.values(), key=_rank)
    exporting = next(filter(_takes_server, ordered), None)
    ordered.sort(key=lambda group: group is not exporting)
    return [item for group in ordered for item in group]


def _rank(items: Iterable[pytest.Item]) -> int:
    marks = _marks(items)
    return 0 if "export" in marks else 1 if "slow" in marks else 2 if "server" in marks else 3


def _takes_server(items: Iterable[pytest.Item]) -> bool:
    return "server" in _marks(items)


def _marks(items: Iterable[pytest.Item]) -> set[str]:
    return {mark.name for item in items for mark in item.iter_markers()}
