"""Facts about this machine, and what makes a local Triton impossible on it.

Standard library only, and nothing newer than Python 3.7: the set-up runs this first, with whatever `python3` there is.
`python3 -m serve.python_facts` prints the facts about that Python as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import sysconfig
from typing import NamedTuple

SUPPORTED_PYTHONS = ((3, 11), (3, 12), (3, 13))  # the wheel has stubs for these, and the code is written for them
NEEDED_GLIBC = (2, 35)  # what the nvidia-pytriton wheel is built for
CONTAINERS = "or use the containers: `docker compose up`"


class Facts(NamedTuple):
    system: str  # "Linux", "Darwin"
    architecture: str  # "x86_64", "aarch64"
    glibc: tuple[int, ...]  # (2, 36); empty for another C library (musl, macOS)
    python: tuple[int, ...]  # (3, 11)
    debian: bool  # whether packages are installed with apt-get
    has_venv: bool  # whether `python -m venv` makes an environment with pip
    libpython_directory: str | None  # where this Python's shared library is, which Triton's Python stub embeds


def facts() -> Facts:
    library, version = platform.libc_ver()
    return Facts(
        system=platform.system(),
        architecture=platform.machine(),
        glibc=tuple(int(part) for part in version.split(".") if part.isdigit()) if library == "glibc" else (),
        python=tuple(sys.version_info[:2]),
        debian=os.path.exists("/etc/debian_version"),
        has_venv=all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")),
        libpython_directory=libpython_directory(),
    )


def libpython_directory() -> str | None:
    name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
    candidates = [
        sysconfig.get_config_var("LIBDIR"),
        os.path.join(sys.base_prefix, "lib"),
        os.path.join("/usr/lib", sysconfig.get_config_var("MULTIARCH") or ""),
    ]
    return next((d for d in candidates if d and os.path.exists(os.path.join(d, name))), None)


def platform_problems(machine: Facts) -> list[str]:
    """Problems that no other Python would solve. Each is a sentence that ends with what to do."""
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        here = f"{machine.system} {machine.architecture}"
        return [f"the local Triton runs on Linux x86-64 only, and this is {here}; use the containers: `docker compose up`"]
    if not machine.glibc:
        return [f"this Triton needs glibc, and this system has another C library; take a Debian or an Ubuntu, {CONTAINERS}"]
    if machine.glibc < NEEDED_GLIBC:
        have, need = (".".join(map(str, version)) for version in (machine.glibc, NEEDED_GLIBC))
        return [f"this Triton needs glibc {need} or newer, not {have}; take Debian 12, Ubuntu 22.04 or newer, {CONTAINERS}"]
    return []


def python_problems(machine: Facts) -> list[str]:
    """Problems that another Python would solve. Each is a sentence that ends with what to do."""
    version = ".".join(map(str, machine.python))
    if machine.python not in SUPPORTED_PYTHONS:
        return [
            f"Python {version} does not fit: this Triton embeds Python 3.11, 3.12 or 3.13. Install one of them "
            "(Debian 12: `apt-get install python3.11-venv libpython3.11`; Ubuntu 24.04: `apt-get install python3.12-venv "
            "libpython3.12`; Debian 13: `apt-get install python3.13-venv libpython3.13`; anywhere: `uv python install 3.12`). "
            f"They are found on PATH by name; to use another: PYTHON=/path/to/python make serve; {CONTAINERS}"
        ]
    lacks = []
    if not machine.has_venv:
        lacks.append(("the modules venv and ensurepip, which make virtual environments", f"python{version}-venv"))
    if machine.libpython_directory is None:
        lacks.append((f"its shared library libpython{version}.so.1.0, which Triton embeds", f"libpython{version}"))
    if not lacks:
        return []
    what = " and ".join(thing for thing, _ in lacks)
    packages = " ".join(package for _, package in lacks)
    way_out = f"`apt-get install {packages}`" if machine.debian else "take a Python that has them (built with --enable-shared)"
    return [f"this Python {version} lacks {what}; {way_out}, or name another 3.11 to 3.13: PYTHON=/path/to/python make serve"]


def problems(machine: Facts) -> list[str]:
    return platform_problems(machine) or python_problems(machine)


def read_facts(text: str) -> Facts:
    """Parses the output of `python -m serve.python_facts`."""
    loaded = json.loads(text)
    return Facts(**dict(loaded, glibc=tuple(loaded["glibc"]), python=tuple(loaded["python"])))


if __name__ == "__main__":
    print(json.dumps(facts()._asdict()))
