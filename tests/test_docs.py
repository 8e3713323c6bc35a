"""docs/api.md says what the code does."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.schemas import fields_of
from gateway.schemas.base import nested_schema
from scripts.api_parameters import BODIES
from scripts.api_tables import REFERENCE, with_tables

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_the_tables_of_the_reference_are_those_of_the_code() -> None:
    text = REFERENCE.read_text()
    assert text.splitlines() == with_tables(text).splitlines(), "run: python -m scripts.api_tables"


def every_schema(schema: type[BaseModel]) -> set[type[BaseModel]]:
    nested = {nested_schema(field.annotation) for field in fields_of(schema).values()} - {None}
    return {schema}.union(*(every_schema(inner) for inner in nested if inner is not None))


@pytest.mark.parametrize("path", BODIES)
def test_every_field_says_what_is_allowed(path: str) -> None:
    """Without it the reference has a gap, and an error message ends in "it must be .\""""
    silent = [
        f"{schema.__name__}.{name}"
        for schema in every_schema(BODIES[path])
        for name, field in fields_of(schema).items()
        if not field.description
    ]
    assert not silent


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
