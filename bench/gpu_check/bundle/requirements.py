"""Which locked packages travel, and which the target machine has already."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.gpu_check.bundle import BundleError

# They run in processes of their own, in whatever Python and version the target has them.
PEERS = {"torch", "transformers", "triton"}
OF_GPU = {"onnxruntime-gpu", "torch", "triton"}
TRITON = "nvidia-pytriton"
LISTED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:==|\s+@\s+|\s+)(\S+)")  # of `pip freeze`, or of `pip list`


@dataclass(frozen=True)
class Package:
    """A package of a lock. ``block``: its lines there, with the hashes. ``wanted``: one of our own `.in` files names it."""

    name: str
    version: str
    block: str
    needed_by: frozenset[str]
    wanted: bool

    @property
    def of_cuda(self) -> bool:
        """A library or a binding of CUDA."""
        return self.name.startswith(("nvidia-", "cuda-")) and self.name != TRITON


def read_lock(path: Path) -> dict[str, Package]:
    """By name. BundleError if a package has no hash."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", path.read_text(), flags=re.MULTILINE)[1:]
    return {package.name: package for package in map(_package, blocks, [path] * len(blocks))}


def _package(block: str, path: Path) -> Package:
    name, _, version = block.split()[0].partition("==")
    if "--hash=" not in block:
        raise BundleError(f"{path}: {name} has no hash; `scripts/lock` writes them")
    needing = [line.removeprefix("# via").strip(" #") for line in map(str.strip, block.splitlines()) if line.startswith("#")]
    wanted = any(line.startswith("-r ") for line in needing)
    return Package(name, version, block, frozenset(line for line in needing if line and line[0] != "-"), wanted)


def read_names(path: Path) -> set[str]:
    """The packages that a list of names holds; its comments are skipped."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if line}


def read_installed(path: Path) -> dict[str, str]:
    """Names and versions, as `pip freeze` or `pip list` prints them. BundleError names a line that is neither."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith(("#", "-")) or line.split()[0] == "Package":
            continue
        match = LISTED.match(line)
        if not match:
            raise BundleError(f"{path}, line {number}: {line!r} is neither `NAME==VERSION` nor `NAME VERSION`")
        found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def for_gpu(lock: Mapping[str, Package], has: Mapping[str, str], not_needed: set[str]) -> dict[str, Package]:
    """What travels to a machine with a GPU that has the packages ``has``.

    The peers are left out if the target has torch and transformers, in whatever version. A library of CUDA is left out if the
    target has the same major version. All else travels: it belongs to the Python that travels with it.
    """
    kept = _without_peers(lock, not_needed) if has_peers(has) else dict(lock)
    return {name: package for name, package in kept.items() if not (package.of_cuda and _same_major(package, has))}


def for_cpu(
    lock: Mapping[str, Package], serve: Mapping[str, Package], has: Mapping[str, str], not_needed: set[str]
) -> dict[str, Package]:
    """What travels to a machine without a GPU, besides torch, whose build for CPUs no lock names."""
    kept = _without_peers(lock, not_needed) if has_peers(has) else dict(lock)
    kept = {name: package for name, package in kept.items() if name not in OF_GPU and not package.of_cuda}
    return kept | {"onnxruntime": serve["onnxruntime"]}


def has_peers(has: Mapping[str, str]) -> bool:
    return {"torch", "transformers"} <= has.keys()


def _without_peers(lock: Mapping[str, Package], not_needed: set[str]) -> dict[str, Package]:
    return _without(lock, PEERS | {name for name in not_needed if name in lock and not lock[name].wanted})


def _without(lock: Mapping[str, Package], dropped: set[str]) -> dict[str, Package]:
    """Also without what only the dropped ones need."""
    kept = {name: package for name, package in lock.items() if name not in dropped}
    while unneeded := {name for name, one in kept.items() if not one.wanted and not _needed(one, kept)}:
        kept = {name: package for name, package in kept.items() if name not in unneeded}
    return kept


def _needed(package: Package, kept: Mapping[str, Package]) -> bool:
    return any(name.partition("[")[0] in kept for name in package.needed_by)


def _same_major(package: Package, has: Mapping[str, str]) -> bool:
    return package.name in has and has[package.name].split(".")[0] == package.version.split(".")[0]
