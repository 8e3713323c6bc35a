"""Exports of files that are broken or hostile: how they are run and watched, and what their files are made of."""

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from testing.proc import family
from tests.export import samples

ROOT = Path(__file__).parents[2]


MOST_MEMORY, MOST_SECONDS = 1.5 * 2**30, 30.0  # of an export that is refused: bytes, and seconds of a processor


TERABYTE = 1 << 40


def refused(path: Path, *options: str) -> str:
    """The sentence with which the export refuses; fails where it is not one, or took too much, or left anything."""
    repository = path.parent / "models"
    command = [sys.executable, "-m", "export", str(path), "--repository", str(repository), "--name", "stranger", *options]
    before = processor_seconds()
    with (path.parent / "said").open("wb+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        peak = watched_memory(process.pid, process.poll)
        seconds = processor_seconds() - before
        output.seek(0)
        lines = output.read().decode().splitlines()
    assert process.returncode == 1, lines
    assert seconds < MOST_SECONDS and peak < MOST_MEMORY, (seconds, peak / 2**30)
    assert not repository.exists() or os.listdir(repository) == []
    assert not (repository.parent / ".models.export").exists()
    said = [line for line in lines if not line.startswith(("Reading ", "Precision: ", "Writing ", "Comparing "))]
    assert len(said) == 1 and said[0].startswith("refused: ") and len(said[0]) < 1500, lines
    return said[0]


def processor_seconds() -> float:
    """Of the children that have ended, and theirs: a machine that is busy with something else does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched_memory(pid: int, poll: Callable[[], int | None]) -> int:
    """Waits for the end; the most bytes that the process and its children held in memory together, without shared pages."""
    peak = 0
    while poll() is None:
        with suppress(psutil.NoSuchProcess):
            held = [process.memory_info() for process in family(pid)]
            peak = max(peak, sum(memory.rss - memory.shared for memory in held))
        time.sleep(0.02)
    return peak


def cut(file: Path, kept: int) -> None:
    content = file.read_bytes()[:kept]
    file.unlink()
    file.write_bytes(content)


def holed(file: Path, start: bytes, size: int) -> Path:
    """A file of any size that takes no place on the disk."""
    with file.open("wb") as output:
        output.write(start)
        output.truncate(size)
    return file


def safetensors_header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@cache
def llama_sample() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        samples.hf_llama(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def llama_directory(path: Path, **changes: Any) -> Path:
    """A Hugging Face directory with ``changes`` in its config.json."""
    directory = path / "llama"
    directory.mkdir()
    for name, content in llama_sample().items():
        (directory / name).write_bytes(content)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory
