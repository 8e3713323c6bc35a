"""Tables that come from the code are those of the code."""

import pytest
from pydantic import BaseModel

from gateway.api.schemas import fields_of
from gateway.api.schemas.base import nested_schema
from scripts.api_parameters import BODIES
from scripts.document_tables import DOCS, TABLES, with_tables
from scripts.settings_table import MAKEFILE, makefile_with_settings


@pytest.mark.parametrize("document", TABLES)
def test_the_tables_of_a_document_are_those_of_the_code(document: str) -> None:
    text = (DOCS / document).read_text("utf-8")
    assert text.splitlines() == with_tables(document, text).splitlines(), "run: python -m scripts.document_tables"


def test_make_help_has_the_settings_of_the_code() -> None:
    text = MAKEFILE.read_text("utf-8")
    assert text == makefile_with_settings(text), "run: python -m scripts.document_tables"


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
