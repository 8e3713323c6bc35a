"""The figures of the last runs in docs/reliability.md, between two comments: `python -m chaos --report`."""

import json
import re
from pathlib import Path
from typing import Any

from chaos import overload, report, soak
from chaos.tiny import RUN
from testing import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
PLACE = re.compile(r"(?<=<!-- figures: made by `python -m chaos --report` -->\n).*?(?=<!-- end -->)", re.DOTALL)
RUNS = {
    "chaos": ("Faults", "make chaos", report.table),
    "soak": ("Soak", "python -m chaos.soak --minutes 30", soak.table),
    "overload": ("Overload", "python -m chaos.overload", overload.table),
}


def write_figures(document: Path, figures: Path = RUN) -> None:
    """Raises ValueError where the document has no place for them."""
    text = document.read_text()
    if len(PLACE.findall(text)) != 1:
        raise ValueError(f"{document} has no place for the figures")
    made = "\n\n".join(_section(name, figures / f"{name}.json") for name in RUNS)
    document.write_text(PLACE.sub(lambda _: made + "\n", text))


def _section(name: str, file: Path) -> str:
    title, command, table = RUNS[name]
    if not file.exists():
        return f"### {title}\n`{command}` has not been run here."
    results: dict[str, Any] = json.loads(file.read_text())
    outcome = "passed" if results["good"] else "FAILED"
    return f"### {title}\n`{results.get('command') or command}` {outcome}.\n\n{table(results)}"
