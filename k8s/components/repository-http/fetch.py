"""Fills /models from the archive at ARCHIVE_URL, whose SHA-256 is ARCHIVE_SHA256. Standard library only."""

import hashlib
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte


def fetch(url: str, sha256: str, models: Path) -> None:
    """Nothing is unpacked before all of it is there and is what was promised; nothing lands outside ``models``."""
    archive, digest = models / ".archive", hashlib.sha256()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as source, archive.open("wb") as target:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != sha256:
        archive.unlink()
        sys.exit(f"{url} has the SHA-256 {digest.hexdigest()}; ARCHIVE_SHA256 is {sha256}")
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = (models / member.name).resolve().is_relative_to(models.resolve())
            if not inside or not (member.isfile() or member.isdir()):
                sys.exit(f"{url} holds {member.name!r}; files and directories below {models} are all that may be in it")
        tar.extractall(models)
    archive.unlink()
    if not any(models.glob("*/config.pbtxt")):
        sys.exit(f"{url} holds no model: MODEL/config.pbtxt must be in it")


if __name__ == "__main__":
    fetch(os.environ["ARCHIVE_URL"], os.environ["ARCHIVE_SHA256"], Path(os.environ.get("MODELS", "/models")))
