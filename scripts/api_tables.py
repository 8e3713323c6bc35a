"""Writes the tables of docs/api.md from the code: `python -m scripts.api_tables [--check]`.

Each table stands between two comments of docs/api.md that name it. Names, types, defaults, bounds, errors and metrics come from
the gateway itself; what a parameter or an endpoint is for is told in scripts/api_*.py, and one that is not told is an error.
`--check` writes nothing and fails where docs/api.md differs.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.api_parameters import format_table, parameter_table, unchanging_table
from scripts.api_routes import endpoint_table, error_table, metric_table

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
TABLES: dict[str, Callable[[], str]] = {
    "endpoints": endpoint_table,
    "errors": error_table,
    "metrics": metric_table,
    "changes nothing": unchanging_table,
    "response_format": format_table,
    "/generate": lambda: parameter_table("/generate"),
    "/v1/chat/completions": lambda: parameter_table("/v1/chat/completions"),
    "/v1/completions": lambda: parameter_table("/v1/completions"),
    "/v1/responses": lambda: parameter_table("/v1/responses"),
    "/tokenize": lambda: parameter_table("/tokenize"),
    "/detokenize": lambda: parameter_table("/detokenize"),
}
PLACE = re.compile(r"(?<=<!-- table: )(?P<name>[^>]+?)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """``text`` with every table as the code has it now. Raises ValueError where one has no place, or two."""
    places = [match["name"] for match in PLACE.finditer(text)]
    if sorted(places) != sorted(TABLES):
        raise ValueError(
            f"docs/api.md has places for the tables {sorted(places)}; it must have one for each of {sorted(TABLES)}"
        )
    return PLACE.sub(lambda match: f"{match['name']} -->\n{TABLES[match['name']]()}\n", text)


def main(arguments: list[str]) -> None:
    text = REFERENCE.read_text()
    current = with_tables(text)
    if arguments == ["--check"]:
        if text != current:
            sys.exit("docs/api.md differs from the code; run: python -m scripts.api_tables")
        return
    REFERENCE.write_text(current)


if __name__ == "__main__":
    main(sys.argv[1:])
