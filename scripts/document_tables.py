"""Writes the tables of docs/*.md that come from the code, and the settings in `make help`:
`python -m scripts.document_tables [--check]`.

Each table is placed between two comments that name it. Names, types, defaults, bounds, errors, metrics and settings come from
the code itself; descriptions of parameters and endpoints come from scripts/api_*.py, and a missing one is an error.
`--check` writes nothing and fails if a document is out of date.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from backends.onnx_decoder.contract.tensors import INPUTS, OUTPUTS
from scripts.api_parameters import format_table, parameter_table, unchanging_table
from scripts.api_routes import endpoint_table, error_table, metric_table
from scripts.families_table import families_table, kinds_table
from scripts.gpu_memory import streams_table
from scripts.settings_table import MAKEFILE, makefile_with_settings, settings_table
from scripts.wire_tables import columns_table, tensors_table

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "api.md": {
        "endpoints": endpoint_table,
        "errors": error_table,
        "metrics": metric_table,
        "changes nothing": unchanging_table,
        "response_format": format_table,
        "/generate": lambda: parameter_table("/generate"),
        "/v1/chat/completions": lambda: parameter_table("/v1/chat/completions"),
        "/v1/completions": lambda: parameter_table("/v1/completions"),
        "/v1/responses": lambda: parameter_table("/v1/responses"),
        "/v1/messages": lambda: parameter_table("/v1/messages"),
        "/v1/messages/count_tokens": lambda: parameter_table("/v1/messages/count_tokens"),
        "/tokenize": lambda: parameter_table("/tokenize"),
        "/detokenize": lambda: parameter_table("/detokenize"),
    },
    "export.md": {"kinds of checkpoints": kinds_table, "families": families_table},
    "gpu.md": {"streams": streams_table},
    "operations.md": {"settings": settings_table},
    "wire-contract.md": {
        "inputs": lambda: tensors_table("input", INPUTS),
        "outputs": lambda: tensors_table("output", OUTPUTS),
        "columns": columns_table,
    },
}
PLACE = re.compile(r"(?<=<!-- table: )(?P<name>[^>]+?)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_tables(document: str, text: str) -> str:
    """Returns ``text`` with every table updated from the code. Raises ValueError unless each has exactly one place."""
    tables = TABLES[document]
    places = [match["name"] for match in PLACE.finditer(text)]
    if sorted(places) != sorted(tables):
        raise ValueError(
            f"docs/{document} has places for the tables {sorted(places)}; it must have one for each of {sorted(tables)}"
        )
    return PLACE.sub(lambda match: f"{match['name']} -->\n{tables[match['name']]()}\n", text)


def main(arguments: list[str]) -> None:
    makers: dict[Path, Callable[[str], str]] = {DOCS / name: partial(with_tables, name) for name in TABLES}
    for path, current in (makers | {MAKEFILE: makefile_with_settings}).items():
        text = path.read_text("utf-8")
        if arguments != ["--check"]:
            path.write_text(current(text), "utf-8")
        elif text != current(text):
            sys.exit(f"{path} differs from the code; run: python -m scripts.document_tables")


if __name__ == "__main__":
    main(sys.argv[1:])
