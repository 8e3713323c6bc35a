"""What is printed is told from what is shown: otherwise no document could be wrong."""

import pytest

from tests.docs import running
from tests.docs.documents import Block


def block(shown: str) -> Block:
    return Block("a.md", 1, "", "curl …\n", run_by=None, not_run=None, shown=shown)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('{"id": "x-…", "created": 1, "text": "four"}', '{"id":"x-5f","created":2,"text":"four"}'),
        ('{"status": "success", "…": "…"}', '{"status": "success", "data": {"text": "any"}}'),
        ('{"usage": {"cached_tokens": 0, "total": 3}}', '{"usage": {"cached_tokens": 24, "total": 3}}'),
        ("first piece  p50 … s\n", "first piece  p50 0.41 s\n"),
    ],
)
def test_what_differs_each_time_is_let_through(shown: str, printed: str) -> None:
    running.assert_shows(block(shown), printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('{"text": "four"}', '{"text": "five"}'),
        ('{"text": "four"}', '{"text": "four", "more": 1}'),
        ('{"text": "four", "more": 1}', '{"text": "four"}'),
        ('{"text": "four", "…": "…"}', '{"data": 1}'),
        ('{"total": 3}', '{"total": 4}'),
        ('{"total": 3}', '{"total": "3"}'),
        ('{"choices": [{"index": 0}]}', '{"choices": []}'),
        ('{"id": "x-…"}', '{"id": "y-5f"}'),
        ("four …\n", "five six\n"),
    ],
)
def test_anything_else_is_a_difference(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        running.assert_shows(block(shown), printed)
