"""python -m export: export a checkpoint to a Triton model repository.

The exported model is compared with the checkpoint before it is installed.
"""

import argparse
import re
import sys
import time
from pathlib import Path

from export.checkpoint import CheckpointError
from export.demonstration import demonstration_checkpoint
from export.exporter import ExportSettings, export, is_current
from export.names import AUTO, MODEL_NAME, MODEL_NAME_ALLOWED, PRECISIONS, default_name
from export.progress import say
from export.repository import RepositoryError
from export.verify import VerificationFailed

USAGE_ERROR, REFUSED, OUTDATED = 2, 1, 3


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = _settings(options)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    began = time.monotonic()
    try:
        if options.check:
            return 0 if is_current(settings) else OUTDATED
        if not export(settings, force=options.force):
            say(f"{settings.name} is up to date: the same export is in {settings.repository}")
            return 0
    except (CheckpointError, VerificationFailed) as error:
        say(f"refused: {error}")
        return REFUSED
    except MemoryError:
        say(f"refused: {settings.checkpoint}: exporting it takes more memory than this machine has")
        return REFUSED
    except (RepositoryError, OSError) as error:
        say(f"failed: {error}; nothing was changed")
        return REFUSED
    except KeyboardInterrupt:
        say("interrupted: nothing was changed")
        return 130
    seconds = time.monotonic() - began
    say(f"Exported to {settings.repository / settings.name} in {seconds:.0f} s, peak memory {_peak_memory() / 2**30:.2f} GiB")
    return 0


def _peak_memory() -> int:
    """In bytes. getrusage is not an option: its peak includes that of the process which started this one."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(peak[1]) * 1024 if peak else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__.partition(": ")[2])
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, help="a .pt, a .gguf or a Hugging Face directory (default: SmolLM2-135M-Instruct)")
    add("--repository", type=Path, default=Path("model_repository"), help="where the model goes (default: %(default)s)")
    add("--name", help="the model's name (default: from the name of the file or its directory)")
    add("--precision", choices=PRECISIONS, default=AUTO, help=PRECISION)
    add("--tokenizer", help="`gpt2`, a tokenizer.json, or a meta.pkl of nanoGPT (default: the checkpoint's own)")
    add("--chat-template", help="`dolly`, `none` or a Jinja file (default: the checkpoint's own)")
    add("--heads", type=int, help="of attention, where a bare file does not tell them (default: as the checkpoint says)")
    add("--context-length", type=int, help="positions a sequence may have (default: the model's own, at most 2048)")
    add(
        "--slots",
        default="auto",
        help="sequences cached at once, with their memory reserved (default: up to 32, by the free memory; it grows with use)",
    )
    add("--candidates", type=int, default=64, help="most probable tokens that cross the wire (default: %(default)s)")
    add("--force", action="store_true", help="export again although the same export is there")
    add("--check", action="store_true", help="export nothing; exit status 3 unless the same export is there")
    add("--query-seqlens", action=argparse.BooleanOptionalAction, help=QUERY_SEQLENS)
    return parser


PRECISION = "how weights are stored (default: auto, by what the checkpoint and this machine's processor are; it says why)"
QUERY_SEQLENS = "let rows of several tokens share a forward pass; needs onnxruntime 1.32 (default: yes, but no for fp16)"


def _settings(options: argparse.Namespace) -> ExportSettings:
    """Raises ValueError with a message for the user."""
    checkpoint = options.checkpoint or demonstration_checkpoint()
    if not checkpoint.exists():
        raise ValueError(f"there is no checkpoint {checkpoint}")
    name = options.name or default_name(checkpoint)
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(f"argument --name: {name!r} is not a valid model name; allowed are {MODEL_NAME_ALLOWED}")
    if (options.repository / name).exists() and not (options.repository / name).is_dir():
        raise ValueError(f"argument --name: {options.repository / name} is not a model, and would be overwritten")
    if options.slots != "auto" and not (options.slots.isdecimal() and int(options.slots) > 0):
        raise ValueError(f"argument --slots: {options.slots!r} is neither 'auto' nor a number of at least 1")
    for option in ("context_length", "candidates", "heads"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise ValueError(f"argument --{option.replace('_', '-')}: {value} is less than 1")
    return ExportSettings(
        checkpoint=checkpoint,
        repository=options.repository,
        name=name,
        precision=options.precision,
        tokenizer=options.tokenizer,
        chat_template=options.chat_template,
        heads=options.heads,
        context_length=options.context_length,
        slots=options.slots,
        candidates=options.candidates,
        query_seqlens=options.query_seqlens,
    )


if __name__ == "__main__":
    sys.exit(main())
