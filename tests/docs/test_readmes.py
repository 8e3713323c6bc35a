"""README.md and README.zh-CN.md say the same: everything in them that is no prose is equal."""

import re
from collections import Counter

from tests.docs.documents import ROOT, blocks, headings, links, without_blocks

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
NUMBER_WORDS = re.compile(r"\d+(?:[.,]\d+)*")
CODE = re.compile(r"`([^`\n]+)`")


def table_shapes(text: str) -> list[int]:
    """The number of cells of each row of each table."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def test_headings_have_the_same_order_and_levels() -> None:
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(CHINESE)]


def test_blocks_of_code_are_the_same() -> None:
    kept = [
        [(block.language, block.text, block.run_by, block.not_run) for block in blocks(path)] for path in (ENGLISH, CHINESE)
    ]
    assert kept[0] == kept[1] and len(kept[0]) >= 8


def test_links_and_pictures_are_the_same() -> None:
    assert Counter(links(ENGLISH)) - Counter(["README.zh-CN.md"]) == Counter(links(CHINESE)) - Counter(["README.md"])


def test_tables_have_the_same_rows_and_columns() -> None:
    assert table_shapes(without_blocks(ENGLISH)) == table_shapes(without_blocks(CHINESE))


def test_figures_are_the_same() -> None:
    numbers = [Counter(NUMBER_WORDS.findall(without_blocks(path))) for path in (ENGLISH, CHINESE)]
    assert numbers[0] == numbers[1]


def test_names_in_code_type_are_the_same() -> None:
    named = [set(CODE.findall(without_blocks(path))) for path in (ENGLISH, CHINESE)]
    assert named[0] == named[1]
