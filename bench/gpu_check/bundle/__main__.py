"""Makes a bundle of `make gpu-check` for a machine without a package index.

    scripts/gpu-check --bundle DIRECTORY [--device cuda --capability 90 | --device cpu] [--has FILE] [--piece MIB]

DIRECTORY receives `piece-00`, `piece-01`, …, their `SHA256SUMS`, and `unpack-and-run`. The Python that runs this travels too:
the target needs none. PYTHON=python3.12 chooses another. Steps and rules: docs/gpu.md.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.gpu_check.bundle import BundleError, fat_binary, requirements, triton_wheel
from bench.gpu_check.bundle.interpreter import copy_interpreter
from bench.gpu_check.bundle.requirements import Package, read_lock

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
SCRIPT = Path(__file__).with_name("unpack-and-run")
PROVIDER = Path("onnxruntime", "capi", "libonnxruntime_providers_cuda.so")
PROGRAMS = ("git", "ldd", "tar", "xz", "split")
MIB = 2**20
LEVEL = 0  # of xz: 3 takes four times as long and saves 6 %, since CUDA code and weights are compressed already


def main() -> None:
    arguments = parsed()
    try:
        make(arguments)
    except BundleError as error:
        sys.exit(f"gpu-check: {error}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIRECTORY", help="an empty or a new one")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--capability", type=int, help="of the card, without its dot: 90 for an H100; nvidia-smi knows it")
    parser.add_argument("--has", type=Path, metavar="FILE", help="what `pip list` prints on the target")
    parser.add_argument("--piece", type=int, default=60, metavar="MIB", help="the most a piece may have (default: %(default)s)")
    arguments = parser.parse_args()
    if (arguments.device == "cuda") != (arguments.capability is not None):
        parser.error("--device cuda takes --capability, and --device cpu takes none")
    if arguments.piece < 1:
        parser.error(f"--piece is {arguments.piece}; it must be 1 or more")
    return arguments


def make(arguments: argparse.Namespace) -> None:
    if lacking := [name for name in PROGRAMS if not shutil.which(name)]:
        raise BundleError(f"this machine lacks {', '.join(lacking)}")
    if arguments.bundle.exists() and any(arguments.bundle.iterdir()):
        raise BundleError(f"{arguments.bundle} is not empty")
    lock, serve = (read_lock(REQUIREMENTS / f"{name}.lock") for name in ("gpu-check", "serve"))
    not_needed = requirements.read_names(REQUIREMENTS / "not-needed.txt")
    has = requirements.read_installed(arguments.has) if arguments.has else {}
    on_gpu = arguments.device == "cuda"
    travelling = requirements.for_gpu(lock, has, not_needed) if on_gpu else requirements.for_cpu(lock, serve, has, not_needed)
    with tempfile.TemporaryDirectory(prefix="tidegate-bundle-") as directory:
        tree = Path(directory)
        copy_interpreter(tree / "python")
        copy_checkout(tree / "tidegate")
        packages = tree / "packages"
        install(packages, travelling.values())
        if on_gpu:
            trim_provider(packages / PROVIDER, arguments.capability)
        elif not requirements.has_peers(has):
            pip(packages, REQUIREMENTS / "torch.in")  # without a hash: the build is this machine's matter
        triton_wheel.prune(packages)
        (tree / "left-out").write_text("".join(f"{name}\n" for name in lock if name not in travelling))
        report(tree)
        write_pieces(tree, arguments.bundle, arguments.piece)


def copy_checkout(directory: Path) -> None:
    """All tracked files, as they are in the work tree."""
    listed = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        raise BundleError(f"{ROOT} is no clone: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, directory / name
        if source.is_symlink() or source.is_file():  # not deleted
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def install(packages: Path, travelling: Iterable[Package]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.writelines(package.block for package in travelling)
        listed.flush()
        pip(packages, Path(listed.name), "--require-hashes")


def pip(packages: Path, listed: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--upgrade", f"--target={packages}", *options, "-r", str(listed)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise BundleError(f"pip could not collect the packages:\n{done.stderr[-2000:].strip()}")


def trim_provider(path: Path, capability: int) -> None:
    library = bytearray(path.read_bytes())
    kept = fat_binary.trim(library, capability)
    path.write_bytes(library)
    print(f"{path.name}: {kept / MIB:.0f} MiB of machine code for the compute capability {capability} are kept", flush=True)


def report(tree: Path) -> None:
    """What takes the most room, before it is compressed."""
    parts = [tree / "python", tree / "tidegate", *(tree / "packages").iterdir()]
    sizes = sorted(((size(part), part) for part in parts), reverse=True)
    for bytes_taken, part in sizes[:15]:
        print(f"{bytes_taken / MIB:8.1f} MiB  {part.relative_to(tree)}")
    print(f"{sum(one for one, _ in sizes) / MIB:8.1f} MiB  in all", flush=True)


def size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def write_pieces(tree: Path, directory: Path, piece: int) -> None:
    """The compressed tree in pieces of at most ``piece`` MiB, their hashes, and the script for the target."""
    directory.mkdir(parents=True, exist_ok=True)
    pack = ["tar", f"--directory={tree}", "--sort=name", "--owner=0", "--group=0", "--create", "."]
    split = ["split", f"--bytes={piece}M", "--numeric-suffixes", "-", f"{directory}/piece-"]
    with (
        subprocess.Popen(pack, stdout=subprocess.PIPE) as tar,
        subprocess.Popen(["xz", "-T0", f"-{LEVEL}"], stdin=tar.stdout, stdout=subprocess.PIPE) as xz,
    ):
        written = subprocess.run(split, stdin=xz.stdout)
    if tar.returncode or xz.returncode or written.returncode:
        raise BundleError(f"{directory} could not be written: tar, xz and split say why above")
    pieces = sorted(directory.glob("piece-*"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in pieces]
    (directory / "SHA256SUMS").write_text("".join(sums))
    shutil.copy(SCRIPT, directory / SCRIPT.name)
    print(f"{directory}: {len(pieces)} pieces, {sum(path.stat().st_size for path in pieces) / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
