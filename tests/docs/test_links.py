"""Links, and files named in the text, lead somewhere. Nothing is asked over the network."""

import re
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, anchors, links, name, without_blocks

FILE = re.compile(r"`((?:backends|bench|chaos|docs|examples|export|gateway|requirements|scripts|serve|tests)/[\w./*-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file_or_heading_that_there_is(document: Path) -> None:
    lost = []
    for link in links(document):
        if "://" in link:
            assert link.startswith(("https://", "http://localhost:5002")), link
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_file_that_the_text_names_is_there(document: Path) -> None:
    assert not [file for file in FILE.findall(without_blocks(document)) if not any(ROOT.glob(file.rstrip("/")))]


def test_a_requests_life_has_ten_steps_each_with_its_file() -> None:
    life = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## The life of a request")[1].split("\n## ")[0]
    steps = re.split(r"^\d+\. ", life, flags=re.MULTILINE)[1:]
    assert re.findall(r"^(\d+)\. ", life, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert not [step for step in steps if not FILE.search(step)]
