"""A plan of minutes: sections in order, each in a process of its own, so that none can take the others down or their time.

A section gets its budget and what earlier ones did not use. It is left out if less than a quarter of its budget is left, and
stopped when its time is up. What it has measured until then is on disk: it writes a document after every measurement.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve.processes import GuardedProcess

LEAST = 1 / 4  # of its budget: a section with less is left out
GRACE = 10.0  # seconds that a section has after its time to end by itself


@dataclass(frozen=True)
class Task:
    """What a section is given, in its own process."""

    device: str
    quick: bool
    out: Path
    peers_python: str  # the interpreter of the peers: one with torch and transformers
    deadline: float = float("inf")  # time.monotonic
    document: Path = Path()
    found: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.deadline - time.monotonic())

    def save(self, **found: Any) -> None:
        """Adds to what this section has found, on disk."""
        self.found.update(found)
        write(self.document, json.dumps(self.found, indent=2))


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    minutes: float
    run: Callable[[Task], None]


@dataclass
class Plan:
    """``command``: of a section's process, given the seconds that it may take. ``finished`` is called after each section with
    its status."""

    sections: Sequence[Section]
    command: Callable[[Section, float], Sequence[str]]
    finished: Callable[[Section, str], None]
    minutes: float = float("inf")
    say: Callable[[str], None] = lambda text: print(text, flush=True)

    def run(self) -> bool:
        """Whether every section ended well or was left out."""
        end, well = time.monotonic() + 60 * self.minutes, True
        for number, section in enumerate(self.sections):
            left = end - time.monotonic() - GRACE
            later = 60 * sum(one.minutes for one in self.sections[number + 1 :])
            seconds = min(left, max(60 * section.minutes, left - later))
            if seconds < 60 * section.minutes * LEAST:
                status = f"left out: {max(left, 0):.0f} s are left, it is planned with {60 * section.minutes:.0f} s"
            else:
                self.say(f"\n## {section.title}: {remaining(seconds)}, {remaining(left)} left")
                status = self._run(section, seconds)
            well = well and not status.startswith(("failed", "stopped"))
            self.say(f"-- {section.name}: {status}")
            self.finished(section, status)
        return well

    def _run(self, section: Section, seconds: float) -> str:
        began = time.monotonic()
        command = self.command(section, seconds)
        with GuardedProcess(command, env=os.environ, output=sys.stdout.buffer, grace=GRACE / 2) as process:
            while process.running:
                if time.monotonic() - began > seconds + GRACE / 2:
                    return f"stopped after {time.monotonic() - began:.0f} s"
                time.sleep(0.05)
            took = f"{time.monotonic() - began:.1f} s"
            return f"done in {took}" if process.exit_status == 0 else f"failed after {took}: status {process.exit_status}"


def write(path: Path, text: str) -> None:
    """Writes a file atomically: it holds the old text or the new one, never a part."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)


def documents(out: Path, sections: Iterable[Section]) -> dict[str, dict[str, Any]]:
    """What each section has written so far."""
    paths = {section.name: out / f"{section.name}.json" for section in sections}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def remaining(seconds: float) -> str:
    return "unlimited time" if seconds == float("inf") else f"{seconds:.0f} s"
