"""Who may import whom: the table in docs/architecture.md, held against every import of every file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(r"^## Import rules\n(.+?)^## ", re.MULTILINE | re.DOTALL)


def rules() -> list[tuple[str, str]]:
    """Each file or directory of the table, with what it says of the packages that it must not import."""
    section = SECTION.search((ROOT / "docs" / "architecture.md").read_text("utf-8"))
    assert section is not None
    rows = [line.split("|")[1:3] for line in section[1].splitlines() if line.startswith("| `")]
    return [(place, forbidden) for places, forbidden in rows for place in re.findall(r"`([^`]+)`", places)]


def is_in(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def files_of(place: str) -> Iterator[Path]:
    path = ROOT / place
    return iter([path]) if path.is_file() else path.rglob("*.py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; of `from a import b` both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.is_relative_to(ROOT / "backends"), f"{path}: a relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(("place", "cell"), rules(), ids=lambda value: value if "," not in value else "")
def test_no_file_imports_what_its_row_forbids(place: str, cell: str) -> None:
    allowed = re.findall(r"except `([^`]+)`", cell)
    forbidden = [package for package in re.findall(r"`([^`]+)`", cell) if package not in allowed]
    parents = [module.rpartition(".")[0] for module in allowed]  # `from a import b` is an import of `a` too
    files = list(files_of(place))
    assert files and forbidden, f"the row of {place} has no file, or forbids nothing"
    broken = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imports(path)
        if is_in(module, forbidden) and not is_in(module, allowed) and module not in parents
    ]
    assert not broken


def test_one_file_alone_knows_tritons_python_backend() -> None:
    knowing = [path for path in (ROOT / "backends").rglob("*.py") if "triton_python_backend_utils" in imports(path)]
    assert knowing == [ROOT / "backends" / "onnx_decoder" / "model.py"]
