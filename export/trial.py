"""`python -m export.trial`: reads a checkpoint in a sandboxed process before this one reads it.

An untrusted file can do what no check would catch in time: a pickle that expands one byte into a terabyte, a tokenizer's
regular expression or a chat template that never terminates, bytes that crash a library. Here, that ends in one sentence.
"""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from export.checkpoint import CheckpointError
from export.checkpoints import located, parts

ROOT = Path(__file__).resolve().parent.parent
MEMORY = 1 << 30  # bytes of heap, on top of what the size of the file explains
CPU_SECONDS, WALL_SECONDS = 15, 120  # for a small file; reading from a slow disk uses no CPU time
BYTES_A_SECOND = 50 << 20


def try_out(
    checkpoint: Path,
    tokenizer: str | None,
    chat_template: str | None,
    heads: int | None = None,
    *,
    cpu_seconds: int = CPU_SECONDS,
) -> None:
    """Raises CheckpointError unless reading the checkpoint, encoding text and rendering its chat template all succeed."""
    size = _size(checkpoint)
    heap = MEMORY + size + min(8 * size, _machine_memory() // 2)  # .pt files are mapped such that they count as heap
    limits = {"heap": heap, "cpu_seconds": cpu_seconds + size // BYTES_A_SECOND}
    settings = {"tokenizer": tokenizer, "chat_template": chat_template, "heads": heads}
    arguments = json.dumps({"checkpoint": str(checkpoint), "settings": settings, **limits})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "export.trial", arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            said, _ = process.communicate(timeout=WALL_SECONDS + size // BYTES_A_SECOND)
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"{checkpoint}: reading it does not come to an end") from None
        finally:
            process.kill()
    if process.returncode:
        raise CheckpointError(said.decode(errors="replace").strip() or f"{checkpoint}: {_harm(process.returncode, heap)}")


def _harm(status: int, heap: int) -> str:
    """The reason a process died without reporting one."""
    if status == -signal.SIGXCPU:
        return "reading it, encoding a text, or rendering its chat template, does not come to an end"
    if status == -signal.SIGKILL:  # by the kernel when memory runs out
        return "reading it takes more memory than there is"
    given = f"status {status} within {heap / 2**30:.1f} GiB of memory"
    return f"reading it ended with {given}, so it is damaged or hostile"


def _size(checkpoint: Path) -> int:
    checkpoint = located(checkpoint)
    files = checkpoint.iterdir() if checkpoint.is_dir() else parts(checkpoint)
    return sum(file.stat().st_size for file in files if file.is_file())


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main(arguments: str) -> int:
    asked = json.loads(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_seconds"], asked["cpu_seconds"] + 5))
    path = asked["checkpoint"]
    try:
        _import(path)
        heap = _heap() + asked["heap"]
        resource.setrlimit(resource.RLIMIT_DATA, (heap, heap))
        _read(path, asked["settings"])
    except CheckpointError as refusal:
        print(refusal)
        return 1
    except MemoryError:
        print(f"{path}: reading it takes more memory than a checkpoint of its size can need")
        return 1
    return 0


def _import(path: str) -> None:
    """Imports the libraries that reading needs, so that their memory is not counted against the checkpoint."""
    for library in (
        "export.checkpoints",
        "export.verify",
        *(["torch"] if _is_of_torch(located(Path(path))) else []),
    ):
        if importlib.util.find_spec(library):
            importlib.import_module(library)


def _is_of_torch(checkpoint: Path) -> bool:
    files = [*checkpoint.glob("*.bin"), *checkpoint.glob("*.pth")] if checkpoint.is_dir() else [checkpoint]
    return any(zipfile.is_zipfile(file) for file in files if file.is_file())


def _heap() -> int:
    """The bytes of this process that RLIMIT_DATA counts."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def _read(path: str, settings: dict[str, Any]) -> None:
    from export.checkpoints import one_line, read
    from export.text import tokenizer_limits
    from export.text.chat_template import require_rendering
    from export.text.token_check import require_own_tokens
    from export.text.tokenizers import guarded
    from export.verify import text_windows

    checkpoint = read(path, **settings)
    try:
        require_rendering(checkpoint.tokenizer.chat_template, settings["chat_template"])
        with guarded("its tokenizer cannot be used"):
            tokenizer_limits.require_bounded(checkpoint.tokenizer.tokenizer_json)
            text_windows(checkpoint, checkpoint.architecture.context_length)
            require_own_tokens(checkpoint.tokenizer)
    except CheckpointError as refusal:
        raise CheckpointError(f"{path}: {one_line(str(refusal))}") from refusal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
