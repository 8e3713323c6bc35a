"""The Python that travels: the one that makes the bundle, with its standard library and the shared libraries it takes."""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from bench.gpu_check.bundle import BundleError
from serve.python_facts import libpython_directory

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
UNUSED = (
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "_test*.so", "_ctypes_test.*", "config-*"),
    *("idlelib", "tkinter", "_tkinter.*", "turtledemo", "ensurepip", "lib2to3"),
)
# The C library's own belong to the target's loader.
OF_GLIBC = re.compile(r"(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libutil|libresolv)\.so\.")


def copy_interpreter(directory: Path) -> None:
    """`bin/`, `lib/`, and in `libraries/` what the target might lack. BundleError if this Python has no shared library."""
    name = f"libpython{VERSION}.so.1.0"
    found = libpython_directory()
    if found is None:
        raise BundleError(f"this Python {VERSION} has no {name}, which Triton embeds; choose another: PYTHON=python3.12 …")
    for part in ("bin", "lib", "libraries"):
        (directory / part).mkdir(parents=True)
    python = directory / "bin" / f"python{VERSION}"
    shutil.copy(Path(sys.executable).resolve(), python)
    shutil.copy(Path(found) / name, directory / "lib" / name)
    library = directory / "lib" / f"python{VERSION}"
    ignored = shutil.ignore_patterns(*UNUSED)
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=ignored, ignore_dangling_symlinks=True)
    for path in needed_libraries([python, directory / "lib" / name, *library.glob("lib-dynload/*.so")]):
        if not OF_GLIBC.match(path.name) and path.name != name:
            shutil.copy(path, directory / "libraries" / path.name)


def needed_libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that ``files`` load here."""
    output = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"=> (/\S+) \(", output)}
