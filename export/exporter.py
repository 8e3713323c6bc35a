"""One export from start to finish: read, write the graph, verify, install."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import precision
from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import read, watched
from export.graph import write_graph
from export.model_directory import config_pbtxt, model_parameters, write_model_card, write_tokenizer
from export.names import AUTO
from export.progress import progress, say
from export.quantize import PRECISIONS
from export.repository import Repository, fingerprint, writing
from export.trial import try_out
from export.verify import BOUNDS, OutOfBounds, VerificationFailed, verify

DEFAULT_CONTEXT_LENGTH = 2048
MINIMUM_CONTEXT_LENGTH = 16


@dataclass(frozen=True)
class ExportSettings:
    checkpoint: Path
    repository: Path
    name: str
    precision: str  # or AUTO
    tokenizer: str | None = None
    chat_template: str | None = None
    heads: int | None = None  # attention heads, if the file does not store them
    context_length: int | None = None
    slots: str = "auto"
    candidates: int = 64
    query_seqlens: bool | None = None  # whether rows of several tokens share a pass; None: yes except for fp16

    def fingerprint(self) -> str:
        """Covers the settings and the current state of the files."""
        settings = asdict(self) | {"checkpoint": self.checkpoint.name, "config": config_pbtxt()}
        del settings["repository"]
        if self.precision == AUTO:
            settings["chosen_by"] = [os.environ.get("TIDEGATE_DEVICE"), precision.has_vnni()]
        named = (Path(option).expanduser() for option in (self.tokenizer, self.chat_template) if option)
        try:
            files = [path for path in (*watched(self.checkpoint), *named) if path.exists()]
        except CheckpointError as exc:
            raise CheckpointError(f"{self.checkpoint}: {exc}") from exc
        return fingerprint(files, settings)


def is_current(settings: ExportSettings) -> bool:
    """Whether the repository already has this export."""
    return Repository(settings.repository).fingerprint_of(settings.name) == settings.fingerprint()


def export(settings: ExportSettings, *, force: bool = False) -> bool:
    """Adds the model to the repository. Returns False if it already has this export.

    Raises CheckpointError, VerificationFailed or RepositoryError; the repository is then unchanged.
    """
    repository = Repository(settings.repository)
    with repository.lock():
        fingerprint = settings.fingerprint()
        if not force and repository.fingerprint_of(settings.name) == fingerprint:
            return False
        say(f"Reading {settings.checkpoint}")
        own: dict[str, Any] = {
            "tokenizer": settings.tokenizer,
            "chat_template": settings.chat_template,
            "heads": settings.heads,
        }
        try_out(settings.checkpoint, **own)
        checkpoint = read(settings.checkpoint, **own)
        with repository.adding_version(settings.name, config_pbtxt()) as directory:
            _make_within_bounds(directory, checkpoint, settings, fingerprint)
            if settings.fingerprint() != fingerprint:
                raise CheckpointError(f"{settings.checkpoint} changed while it was read: run the export again")
    return True


def _decided(settings: ExportSettings, checkpoint: Checkpoint) -> ExportSettings:
    """Fills in the defaults that depend on the checkpoint; prints the chosen precision and the reason."""
    if settings.precision == AUTO:
        chosen, reason = precision.choose(checkpoint)
        say(f"Precision: {chosen}, because {reason}; PRECISION=… chooses another")
        settings = replace(settings, precision=chosen)
    shares_passes = settings.precision != "fp16" if settings.query_seqlens is None else settings.query_seqlens
    return replace(settings, query_seqlens=shares_passes)


def _make_within_bounds(version: Path, checkpoint: Checkpoint, settings: ExportSettings, fingerprint: str) -> None:
    """If the precision was left to us, falls back to a more exact one when verification fails."""
    decided = _decided(settings, checkpoint)
    while True:
        try:
            return _make(version, checkpoint, decided, fingerprint)
        except OutOfBounds as failed:
            better = precision.MORE_EXACT.get(decided.precision)
            if settings.precision != AUTO or better is None:
                way_out = f"; PRECISION={better} is more exact" if better else ""
                raise OutOfBounds(f"in {decided.precision} it differs from the checkpoint: {failed}{way_out}") from failed
            say(f"{decided.precision} would change this model too much ({failed}); taking {better} instead")
            decided = replace(decided, precision=better)


def _make(version: Path, checkpoint: Checkpoint, settings: ExportSettings, fingerprint: str) -> None:
    context_length = _context_length(checkpoint, settings.context_length)
    parameters = model_parameters(
        checkpoint,
        precision=settings.precision,
        context_length=context_length,
        candidates=min(settings.candidates, checkpoint.architecture.vocabulary_size),
        slots=settings.slots,
        fingerprint=fingerprint,
    )
    model = version / "model.onnx"
    with writing(settings.repository), progress("Writing the graph") as advance:
        write_tokenizer(version, checkpoint.tokenizer)
        write_graph(
            model,
            checkpoint.architecture,
            checkpoint.weights,  # memory-mapped, so an OSError here comes from writing
            PRECISIONS[settings.precision],
            context_length=context_length,
            candidates=int(parameters["candidates"]),
            query_seqlens=bool(settings.query_seqlens),
            progress=advance,
        )
    try:
        onnx.checker.check_model(str(model))
        # Overflow is caught by the comparison.
        with np.errstate(all="ignore"), progress("Comparing it with the checkpoint") as advance:
            report = verify(model, checkpoint, context_length, advance)
    except (CheckpointError, VerificationFailed, OSError, MemoryError):
        raise
    except Exception as exc:  # ONNX Runtime raises plain Exceptions
        said = " ".join(str(exc).split())[:300]
        raise VerificationFailed(f"{checkpoint.name}: a graph of its sizes does not run ({said})") from exc
    bounds = BOUNDS[settings.precision]
    report.check(bounds)
    say(f"Same as the checkpoint: {report.summary(bounds)}; details in model_card.json")
    size = sum(path.stat().st_size for path in version.iterdir())
    card = {
        "fingerprint": fingerprint,
        "verification": report.figures(),
        "bounds": asdict(bounds),
        "architecture": asdict(checkpoint.architecture),
        "parameters": parameters,
        "files": {"megabytes": round(size / 1e6, 1)},
    }
    with writing(settings.repository):
        write_model_card(version, settings.name, card)


def _context_length(checkpoint: Checkpoint, wanted: int | None) -> int:
    own = checkpoint.architecture.context_length
    length = wanted or min(own, DEFAULT_CONTEXT_LENGTH)
    if not MINIMUM_CONTEXT_LENGTH <= length <= own:
        allowed = f"{MINIMUM_CONTEXT_LENGTH} to {own}, what the checkpoint was made for"
        raise CheckpointError(f"{checkpoint.name}: a context length of {length} is not possible, allowed is {allowed}")
    return length
