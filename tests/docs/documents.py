"""The documents of this repository: their text, links, headings and blocks of code."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = (".", "docs", "examples", "model_repository", ".github", ".github/ISSUE_TEMPLATE")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>run by|not run): (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```\n", re.M | re.S
)
PROGRAMS = r"apt-get|cd|curl|docker|echo|git|kubectl|make|node|printf|python3?|rm|(?:\.venv|examples|scripts)/\S+"
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:{PROGRAMS})\s")
SHOWN = ("json", "text")  # the languages of what a command prints


@dataclass(frozen=True)
class Block:
    document: str  # relative to the repository
    line: int
    language: str
    text: str
    run_by: str | None  # the test file that runs it instead, as its mark says
    not_run: str | None  # why it cannot be run here, as its mark says
    shown: str | None = None  # the block right below it, which shows what it prints

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def is_command(self) -> bool:
        return self.language in ("", "sh", "bash") and bool(COMMAND.match(self.text))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    found = list(BLOCK.finditer(text))
    made = []
    for match, following in zip(found, [*found[1:], None], strict=False):
        adjacent = following is not None and following.start() == match.end() and following["language"] in SHOWN
        reasons = {"run by": None, "not run": None} | ({match["mark"]: match["reason"]} if match["mark"] else {})
        line = text.count("\n", 0, match.start("text"))
        shown = following["text"] if following and adjacent else None
        made.append(Block(name(path), line, match["language"], match["text"], reasons["run by"], reasons["not run"], shown))
    return made


def without_blocks(path: Path) -> str:
    return BLOCK.sub("", path.read_text("utf-8"))


def links(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_blocks(path))


def headings(path: Path) -> list[tuple[int, str]]:
    """Each one's level and title."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", without_blocks(path), re.MULTILINE)]


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(path)}
